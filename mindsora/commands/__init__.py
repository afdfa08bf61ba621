"""The commands of `mindsora`, one file each: options in, a call of the library, lines out."""
