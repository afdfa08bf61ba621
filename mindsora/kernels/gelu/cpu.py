"""The compiled GELU (gelu.cpp), with gradients in both modes."""

from functools import cache

from mindspore import nn, ops

from mindsora.kernels.choice import symbol


class Gelu(nn.Cell):
    def __init__(self):
        super().__init__()
        self.forward = ops.Custom(symbol("gelu", "Gelu"), _first, _first, "aot")
        self.backward = ops.Custom(symbol("gelu", "GeluGrad"), _first, _first, "aot")

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, out, dout):
        return (self.backward(x, dout),)


class GatedGelu(nn.Cell):
    def __init__(self):
        super().__init__()
        self.forward = ops.Custom(symbol("gelu", "GatedGelu"), _first, _first, "aot")
        self.backward = ops.Custom(symbol("gelu", "GatedGeluGrad"), _first_two, _first_two, "aot")

    def construct(self, x, gate):
        return self.forward(x, gate)

    def bprop(self, x, gate, out, dout):
        return self.backward(x, gate, dout)


gelu = cache(Gelu)
gated_gelu = cache(GatedGelu)


def _first(x, *_):
    return x


def _first_two(x, y, *_):
    return x, y
