"""Prompts: templates, cleaning and tokenisers."""
