"""The compiled transform (haar.cpp), with gradients in both modes."""

from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels.choice import symbol


class Split(nn.Cell):
    def __init__(self, temporal: bool, scale: float):
        super().__init__()
        # Numbers for shape inference travel as a tensor's shape: see conv3d/cpu.py.
        self.settings = Tensor(np.full(2 if temporal else 1, scale, np.float32))
        self.split = ops.Custom(symbol("haar", "HaarSplit"), _split_shape, _first, "aot")
        self.join = ops.Custom(symbol("haar", "HaarJoin"), _join_shape, _first, "aot")

    def construct(self, x):
        return self.split(x, self.settings)

    def bprop(self, x, out, dout):
        return (self.join(dout, self.settings),)


class Join(Split):
    def construct(self, y):
        return self.join(y, self.settings)

    def bprop(self, y, out, dout):
        return (self.split(dout, self.settings),)


split = cache(Split)
join = cache(Join)


def _split_shape(x, settings):
    batch, frames, height, width, channels = x
    axes = settings[0]
    return batch, frames // axes, height // 2, width // 2, channels * 4 * axes


def _join_shape(y, settings):
    batch, frames, height, width, channels = y
    axes = settings[0]
    return batch, frames * axes, 2 * height, 2 * width, channels // (4 * axes)


def _first(x, *_):
    return x
