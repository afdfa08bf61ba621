"""Curation: from a folder of raw videos to a training set of which every drop has a reason (docs/curation.md)."""
