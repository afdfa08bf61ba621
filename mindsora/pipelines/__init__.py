"""Pipelines: text in, and for some models frames, video out."""
