"""Training data: sources of clips, their order and their latents; `toy` has procedural captioned clips."""
