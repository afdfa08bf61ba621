"""The compiled norm and rotation (qk_norm_rope.cpp), with gradients in both modes."""

from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels.choice import symbol
from mindsora.kernels.placeholder import nothing
from mindsora.kernels.qk_norm_rope.reference import NORMS
from mindsora.kernels.skiparse_permute.cpu import skip, unpermute
from mindsora.kernels.skiparse_permute.reference import padded_length


class NormRope(nn.Cell):
    """x (B, N, H, D), weight and bias (D,) float32, cos and sin (1, N, 1, D) float32 or placeholders of one axis."""

    def __init__(self, norm: str, split: tuple[int, int, int], eps: float):
        super().__init__()
        self.settings = Tensor(np.array([NORMS.index(norm), *split, eps], np.float32))
        self.forward = ops.Custom(symbol("qk_norm_rope", "QkNormRope"), _first, _first, "aot")
        self.backward = ops.Custom(symbol("qk_norm_rope", "QkNormRopeGrad"), _first_three, _first_three, "aot")

    def construct(self, x, weight, bias, cos, sin):
        return self.forward(x, weight, bias, cos, sin, self.settings)

    def bprop(self, x, weight, bias, cos, sin, out, dout):
        dx, dw, db = self.backward(x, weight, bias, cos, sin, self.settings, dout)
        return dx, dw, db, ops.zeros_like(cos), ops.zeros_like(sin)


class NormRopeGrouped(NormRope):
    """`NormRope` stored as sub-sequences, each followed by the text rows (B, L, H, D), which have their own norm."""

    def __init__(self, norm: str, split: tuple[int, int, int], eps: float, sparse_n: int, group: bool):
        super().__init__(norm, split, eps)
        self.sparse_n, self.group = sparse_n, group
        self.skip = skip(sparse_n, group)
        self.grouped = ops.Custom(symbol("qk_norm_rope", "QkNormRopeGrouped"), _grouped_shape, _first, "aot")

    def construct(self, x, weight, bias, cos, sin, text, text_weight, text_bias):
        return self.grouped(x, weight, bias, cos, sin, self.settings, text, text_weight, text_bias, self.skip)

    def bprop(self, x, weight, bias, cos, sin, text, text_weight, text_bias, out, dout):
        tokens, rows = x.shape[1], padded_length(x.shape[1], self.sparse_n) // self.sparse_n
        visual = unpermute(self.sparse_n, self.group, tokens)(dout[:, :, :rows])
        dx, dw, db = self.backward(x, weight, bias, cos, sin, self.settings, visual)
        visual = dx, dw, db, ops.zeros_like(cos), ops.zeros_like(sin)
        if text.ndim == 1:
            return visual + (ops.zeros_like(text), ops.zeros_like(text_weight), ops.zeros_like(text_bias))
        text_grad = dout[:, 0, rows:]
        for s in range(1, self.sparse_n):
            text_grad = text_grad + dout[:, s, rows:]
        none = nothing("float32")
        return visual + self.backward(text, text_weight, text_bias, none, none, self.settings, text_grad)


norm_rope = cache(NormRope)
norm_rope_grouped = cache(NormRopeGrouped)


def _first(x, *_):
    return x


def _first_three(*inputs):
    return inputs[:3]


def _grouped_shape(x, weight, bias, cos, sin, settings, text, text_weight, text_bias, skip):
    batch, tokens, heads, dim = x
    length = text[1] if len(text) == 4 else 0
    return batch, skip[0], padded_length(tokens, skip[0]) // skip[0] + length, heads, dim
