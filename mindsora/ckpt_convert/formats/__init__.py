"""The containers: each module reads one kind of file lazily, and writes it in slices."""
