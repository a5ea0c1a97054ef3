"""NVIDIA Triton for Soundstage: model repositories, and the real server on one machine."""
