"""The compiled attention (skiparse_attention.cpp), with gradients in both modes."""

from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels.choice import symbol
from mindsora.kernels.skiparse_permute.cpu import skip


class Attention(nn.Cell):
    """Absent inputs are placeholders of one axis: neither operators nor gradients in graph mode take None."""

    def __init__(self, sparse_n: int, group: bool):
        super().__init__()
        self.skip = skip(sparse_n, group)
        self.forward = ops.Custom(symbol("skiparse_attention", "SkiparseAttention"), _shapes, _types, "aot")
        self.backward = ops.Custom(symbol("skiparse_attention", "SkiparseAttentionGrad"), _first_six, _first_six, "aot")

    def construct(self, q, k, v, text_q, text_k, text_v, lengths, mask):
        # out, text_out, log-sum-exp, and the text output of every sub-sequence, which the gradient needs again
        return self.forward(q, k, v, text_q, text_k, text_v, lengths, mask, self.skip)

    def bprop(self, q, k, v, text_q, text_k, text_v, lengths, mask, out, dout):
        gradients = self.backward(
            q, k, v, text_q, text_k, text_v, lengths, mask, self.skip, out[0], out[2], out[3], dout[0], dout[1]
        )
        return gradients + (ops.zeros_like(lengths), ops.zeros_like(mask))


attention = cache(Attention)


@cache
def all_text_lengths() -> Tensor:
    """A text length that excludes no text token of any sample."""
    return Tensor(np.full(1, np.iinfo(np.int32).max, np.int32))


def _shapes(q, k, v, text_q, text_k, text_v, lengths, mask, skip):
    batch, tokens, heads, dim = q
    if len(text_q) == 1:
        return q, (1,), (batch, heads, tokens), (1,)
    length, n = text_q[1], skip[0]
    return q, text_q, (batch, heads, tokens + n * length), (batch, n, length, heads, dim)


def _types(q, *others):
    return q, q, ms.float32, ms.float32


def _first_six(*inputs):
    return inputs[:6]
