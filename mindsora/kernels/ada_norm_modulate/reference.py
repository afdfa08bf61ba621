"""Adaptive normalisation and gated residual in plain MindSpore: the definition of the result.

All arithmetic is float32 for every dtype of the stream, as upstream. The normalised stream is rounded to its dtype
before modulation; a fused operator need not round there.
"""

from functools import cache

import mindspore as ms
from mindspore import Tensor

from mindsora.kernels.rows import NormaliseRows, PerToken, repeated


@cache
def _normalise(eps):
    return NormaliseRows(eps, centre=True)


@cache
def _per_token():
    return PerToken()


def ada_norm_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> Tensor:
    """See `mindsora.kernels.ada_norm_modulate.ada_norm_modulate`."""
    h, _ = _normalise(eps)(x.reshape(-1, x.shape[-1]).astype(ms.float32))
    if weight is not None:
        h = h * repeated(weight.astype(ms.float32), h)
    if bias is not None:
        h = h + repeated(bias.astype(ms.float32), h)
    h = h.astype(x.dtype).reshape(x.shape).astype(ms.float32)
    scale, shift = scale.astype(ms.float32), shift.astype(ms.float32)
    return (h * _per_token()(1 + scale, x.shape[1]) + _per_token()(shift, x.shape[1])).astype(x.dtype)


def gated_residual(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """See `mindsora.kernels.ada_norm_modulate.gated_residual`."""
    gate = _per_token()(gate.astype(ms.float32), x.shape[1])
    return (x.astype(ms.float32) + gate * update.astype(ms.float32)).astype(x.dtype)
