"""Norm of queries or keys, then rotary embedding, in plain MindSpore: the definition of the result."""

from functools import cache

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.kernels.qk_norm_rope.rotary import RoPE3D
from mindsora.kernels.rows import NormaliseRows, repeated
from mindsora.kernels.skiparse_permute.reference import permute

NORMS = ("none", "rms", "layer")


@cache
def _normalise(eps, centre):
    return NormaliseRows(eps, centre=centre)


@cache
def _rotate(split):
    return RoPE3D(split)


def norm_rope(x: Tensor, weight: Tensor | None, bias: Tensor | None, rope: tuple | None, *, norm, split, eps) -> Tensor:
    """See `mindsora.kernels.qk_norm_rope.qk_norm_rope`."""
    h = x.reshape(-1, x.shape[-1])
    if norm != "none":
        h, _ = _normalise(eps, norm == "layer")(h.astype(ms.float32))  # the mean of squares overflows float16
        h = h.astype(x.dtype)  # upstream rounds before it scales
    if weight is not None:
        h = h * repeated(weight.astype(x.dtype), h)
    if bias is not None:
        h = h + repeated(bias.astype(x.dtype), h)
    h = h.reshape(x.shape)
    return h if rope is None else _rotate(split)(h, rope[0], rope[1])


def grouped(x: Tensor, text: Tensor | None, *, sparse_n: int, group: bool) -> Tensor:
    """(B, N, H, D), (B, L, H, D) -> (B, n, R + L, H, D): sub-sequences, each followed by the text."""
    x = permute(x, sparse_n=sparse_n, group=group)
    if text is None:
        return x
    return ops.concat((x, text.expand_dims(1).broadcast_to((x.shape[0], sparse_n) + text.shape[1:])), 2)
