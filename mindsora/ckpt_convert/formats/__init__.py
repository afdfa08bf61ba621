"""The containers: each module reads one file format lazily and writes it in slices."""
