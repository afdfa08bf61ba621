"""The rotation of rotary position embedding over (t, y, x) in plain MindSpore (Su et al. 2021, RoFormer).

Each axis rotates one slice of the head's channels. Within a slice, channel k of the first half and channel k of the
second half form a pair.
"""

import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels import forms
from mindsora.kernels.rows import on_ascend


def swapped_halves(split: tuple[int, int, int]) -> np.ndarray:
    """Channel order (D,) int32 with the two halves of every axis slice exchanged."""
    starts = np.cumsum((0,) + tuple(split))
    return np.concatenate([np.roll(np.arange(s, s + d), d // 2) for s, d in zip(starts, split)]).astype(np.int32)


class RoPE3D(nn.Cell):
    """Rotate visual queries or keys. x: (B, N, H, D); cos, sin: (1, N, 1, D), from `mindsora.nn.rope.rope_tensors`.

    The rotation runs in the tables' dtype (float32 in v1.5); the result has x's dtype.
    """

    def __init__(self, split: tuple[int, int, int]):
        super().__init__()
        self.order = Tensor(swapped_halves(split))
        self.repeat = not on_ascend()  # see mindsora.kernels.rows
        self.take = forms.take_here()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = x.astype(cos.dtype)
        return (h * self.wide(cos, x) + self.take(h, self.order, -1) * self.wide(sin, x)).astype(x.dtype)

    def bprop(self, x, cos, sin, out, dout):
        # The transpose of a rotation; exchanging halves is its own inverse, so no scatter is needed.
        g = dout.astype(cos.dtype)
        dx = g * self.wide(cos, x) + self.take(g * self.wide(sin, x), self.order, -1)
        return dx.astype(x.dtype), ops.zeros_like(cos), ops.zeros_like(sin)

    def wide(self, table, x):
        return table.broadcast_to(x.shape) if self.repeat else table
