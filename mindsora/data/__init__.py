"""Training data: real clips from annotation files (`clips`, `loading`), latents, masks; `toy` has procedural clips."""
