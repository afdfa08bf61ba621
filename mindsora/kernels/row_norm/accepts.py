"""The implementations of the norm in order of preference, and what each takes."""

from mindsora.kernels.accepts import SINGLE, Accepts

# The compiled norm rounds nothing on the way, as half precision has to be.
ACCEPTS = {"ascend_builtin": Accepts(), "cpu": Accepts(x=SINGLE, weight=SINGLE), "reference": Accepts()}
