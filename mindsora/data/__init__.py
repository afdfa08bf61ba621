"""Training data: the procedural captioned clips of the nano model."""
