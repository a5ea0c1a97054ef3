"""Turns latents into a picture, and picture and sound into the file that is delivered."""
