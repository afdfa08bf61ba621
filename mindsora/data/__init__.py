"""Training data: sources of clips, their order, their latents; `toy` has procedural captioned clips."""
