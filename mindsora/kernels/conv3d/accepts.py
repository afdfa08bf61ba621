"""The implementations of convolution in order of preference, and what each takes."""

from mindsora.kernels.accepts import Accepts

# The CPU forms compute in float32 whatever the inputs' dtype is.
ACCEPTS = {"ascend_builtin": Accepts(), "cpu": Accepts(), "reference": Accepts()}
