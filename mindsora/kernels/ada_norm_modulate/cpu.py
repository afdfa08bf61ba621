"""The compiled adaptive normalisation (ada_norm_modulate.cpp), with gradients in both modes."""

from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels.choice import symbol


class AdaNormModulate(nn.Cell):
    def __init__(self, eps: float):
        super().__init__()
        self.eps = Tensor(np.array([eps], np.float32))
        self.forward = ops.Custom(symbol("ada_norm_modulate", "AdaNormModulate"), _first, _first, "aot")
        self.backward = ops.Custom(symbol("ada_norm_modulate", "AdaNormModulateGrad"), _first_five, _first_five, "aot")

    def construct(self, x, shift, scale, weight, bias):
        return self.forward(x, shift, scale, weight, bias, self.eps)

    def bprop(self, x, shift, scale, weight, bias, out, dout):
        return self.backward(x, shift, scale, weight, bias, self.eps, dout)


class GatedResidual(nn.Cell):
    def __init__(self):
        super().__init__()
        self.forward = ops.Custom(symbol("ada_norm_modulate", "GatedResidual"), _first, _first, "aot")
        self.backward = ops.Custom(symbol("ada_norm_modulate", "GatedResidualGrad"), _first_two, _first_two, "aot")

    def construct(self, x, gate, update):
        return self.forward(x, gate, update)

    def bprop(self, x, gate, update, out, dout):
        gate_grad, update_grad = self.backward(gate, update, dout)
        return dout, gate_grad, update_grad


ada_norm_modulate = cache(AdaNormModulate)
gated_residual = cache(GatedResidual)


def _first(x, *_):
    return x


def _first_two(x, y, *_):
    return x, y


def _first_five(*inputs):
    return inputs[:5]
