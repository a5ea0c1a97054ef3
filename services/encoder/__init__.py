"""The encoder service: prompts, and a first frame, to conditioning for the denoiser."""
