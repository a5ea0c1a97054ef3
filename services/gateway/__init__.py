"""The public door: accepts videos, runs each through the five stages, and tells how far they are."""
