"""Procedural captioned clips: the data of the nano models."""
