"""The implementations of convolution in order of preference, with the inputs that each accepts."""

from mindsora.kernels.accepts import Accepts

# The CPU implementations compute in float32 for every dtype of the inputs.
ACCEPTS = {"ascend_builtin": Accepts(), "cpu": Accepts(), "reference": Accepts()}
