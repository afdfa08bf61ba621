"""The implementations of the norm in order of preference, with the inputs that each accepts."""

from mindsora.kernels.accepts import SINGLE, Accepts

# The compiled norm has no intermediate rounding, which half precision requires.
ACCEPTS = {"ascend_builtin": Accepts(), "cpu": Accepts(x=SINGLE, weight=SINGLE), "reference": Accepts()}
