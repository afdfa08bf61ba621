"""Norm and rotation with aclnnRmsNorm, aclnnLayerNorm and aclnnRotaryPositionEmbedding. Not measured on Ascend.

The kernel rotates the two halves of what it is given, x cos + (-second half, first half) sin: here one axis's slice of
the channels at a time, in the tables' dtype, which is the reference's formula. The norm rounds half precision once, where
the reference rounds before it scales too.
"""

from functools import cache

import numpy as np
from mindspore import Tensor, mint, ops

from mindsora.kernels import forms
from mindsora.kernels.row_norm.ascend import layer_norm, rms_norm


def norm_rope(x: Tensor, weight: Tensor | None, bias: Tensor | None, rope: tuple | None, *, norm, split, eps) -> Tensor:
    """See `mindsora.kernels.qk_norm_rope.qk_norm_rope`."""
    if norm == "rms":
        weight = mint.ones(x.shape[-1:], dtype=x.dtype) if weight is None else weight.astype(x.dtype)
        h = rms_norm(x, weight, eps)
        h = h if bias is None else h + bias.astype(x.dtype)
    elif norm == "layer":
        h = layer_norm(x, _as(weight, x), _as(bias, x), eps)
    else:
        h = x if weight is None else x * weight.astype(x.dtype)
        h = h if bias is None else h + bias.astype(x.dtype)
    return h if rope is None else rotate(h, rope[0], rope[1], split)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, split: tuple[int, int, int]) -> Tensor:
    """x (B, N, H, D); cos, sin (1, N, 1, D). The tables' sine is negated in each first half, which the kernel does."""
    h, sin = x.astype(cos.dtype), sin * _signs(split).astype(sin.dtype)
    turned, start = (), 0
    for width in split:
        channels = forms.narrow(h, -1, start, width)
        table = forms.narrow(cos, -1, start, width), forms.narrow(sin, -1, start, width)
        turned = turned + (ops.rotary_position_embedding(channels, table[0], table[1], 0),)
        start = start + width
    return ops.concat(turned, -1).astype(x.dtype)


@cache
def _sign_table(split):
    return Tensor(np.concatenate([np.repeat([-1.0, 1.0], width // 2) for width in split]).astype(np.float32))


@ops.constexpr
def _signs(split):
    return _sign_table(split)


def _as(row, x):
    return None if row is None else row.astype(x.dtype)
