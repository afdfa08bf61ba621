"""The norms that come with CANN: aclnnRmsNorm and aclnnLayerNorm, differentiable. Not measured on Ascend.

By their documents both compute x / sqrt(mean(x^2) + eps) * weight, and (x - mean) / sqrt(var + eps) * weight + bias, and
round once, at the end. The reference's layer norm is the same. Its RMS norm rounds half precision before it scales too,
so that results differ by a rounding.
"""

import mindspore as ms
from mindspore import Tensor, mint, ops


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Over the last axis, in x's dtype."""
    dtype = _common(x, weight)
    weight = None if weight is None else weight.astype(dtype)
    bias = None if bias is None else bias.astype(dtype)
    return mint.nn.functional.layer_norm(x.astype(dtype), (x.shape[-1],), weight, bias, eps).astype(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last axis, in the wider dtype of the two."""
    dtype = _common(x, weight)
    return ops.rms_norm(x.astype(dtype), weight.astype(dtype), eps)[0]


def row_norm(x: Tensor, weight: Tensor, bias: Tensor | None, *, norm, eps, silu) -> Tensor:
    """See `mindsora.kernels.row_norm.row_norm`."""
    if norm == "layer":
        h = layer_norm(x, weight, bias, eps)
    else:
        h = rms_norm(x, weight, eps).astype(weight.dtype)
        h = h if bias is None else h + bias.astype(h.dtype)
    return ops.silu(h) if silu else h


def _common(x, weight):
    """x's dtype where the weight has it too, else float32: the kernels take one dtype, and nothing is narrowed."""
    return x.dtype if weight is None or weight.dtype == x.dtype else ms.float32
