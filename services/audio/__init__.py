"""Makes the sound of a rendered picture."""
