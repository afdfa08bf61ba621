"""Custom operators. Each has a folder with its source, its binding and its definition in plain MindSpore."""
