"""Adaptive normalisation with aclnnLayerNorm in it. Not measured on Ascend.

The normalised stream is rounded to its dtype before it is modulated in float32, as in the reference.
"""

import mindspore as ms
from mindspore import Tensor

from mindsora.kernels.row_norm.ascend import layer_norm


def ada_norm_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> Tensor:
    """See `mindsora.kernels.ada_norm_modulate.ada_norm_modulate`."""
    h = layer_norm(x, weight, bias, eps).astype(ms.float32)
    return (h * (1 + scale.astype(ms.float32)) + shift.astype(ms.float32)).astype(x.dtype)
