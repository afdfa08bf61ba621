"""A denoiser outside mindsora: one folder, which test_registry.py copies into a package and registers with one call."""
