"""The implementations of GELU in order of preference, with the inputs that each accepts."""

from mindsora.kernels.accepts import SINGLE, Accepts

ACCEPTS = {"ascend_builtin": Accepts(), "cpu": Accepts(x=SINGLE, gate=SINGLE), "reference": Accepts()}
