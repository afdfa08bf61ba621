"""Training: recipes, the compiled step, checkpoints, and the loop they run in."""
