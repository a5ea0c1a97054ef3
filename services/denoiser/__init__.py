"""The denoiser service: from noise to latents, step by step."""
