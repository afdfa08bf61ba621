"""Norm over the last axis in plain MindSpore: the definition of the result."""

from functools import cache

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.kernels.rows import NormaliseRows, repeated

NORMS = ("layer", "rms")


@cache
def _normalise(eps, centre):
    return NormaliseRows(eps, centre=centre)


def row_norm(x: Tensor, weight: Tensor, bias: Tensor | None, *, norm, eps, silu) -> Tensor:
    """See `mindsora.kernels.row_norm.row_norm`."""
    # Layer norm stays float32 up to the result in every dtype. RMS norm is rounded to the weight's dtype before scaling.
    dtype, scaled = (x.dtype, ms.float32) if norm == "layer" else (weight.dtype, weight.dtype)
    h = x.reshape(-1, x.shape[-1]).astype(ms.float32)  # the mean of squares overflows float16
    h, _ = _normalise(eps, norm == "layer")(h)
    h = h.astype(scaled) * repeated(weight.astype(scaled), h)
    if bias is not None:
        h = h + repeated(bias.astype(scaled), h)
    h = h.astype(dtype).reshape(x.shape)
    return ops.silu(h) if silu else h
