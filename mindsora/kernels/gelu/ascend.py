"""aclnnGeluV2 in its tanh form, the reference's formula; it rounds once, at the end. Not measured on Ascend."""

from mindspore import Tensor, mint


def gelu_tanh(x: Tensor, gate: Tensor | None) -> Tensor:
    """See `mindsora.kernels.gelu.gelu_tanh`."""
    y = mint.nn.functional.gelu(x, approximate="tanh")
    return y if gate is None else y * gate
