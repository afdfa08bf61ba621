"""Custom operators: one folder each, with its source, its binding and the plain form that defines it."""
