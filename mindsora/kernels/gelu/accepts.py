"""The implementations of GELU in order of preference, and what each takes."""

from mindsora.kernels.accepts import SINGLE, Accepts

ACCEPTS = {"ascend_builtin": Accepts(), "cpu": Accepts(x=SINGLE, gate=SINGLE), "reference": Accepts()}
