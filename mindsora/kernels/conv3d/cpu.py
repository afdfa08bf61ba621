"""The compiled convolution (conv3d.cpp), with gradients in both modes."""

from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels.choice import symbol


class Conv3dCPU(nn.Cell):
    """`Conv3dReference` through the compiled operator (conv3d.cpp): float32, no padded or copied clip.

    Args:
        stride, before, after, front: as for Conv3dReference.
    """

    def __init__(self, stride: tuple[int, int, int], before: int, after: int, front: int):
        super().__init__()
        # The geometry travels as a tensor's shape: shape inference sees nothing else, and MindSpore keeps one inference
        # function per symbol, so a closure over this layer's stride would be used for every other layer too.
        self.geometry = Tensor(np.zeros(stride + (before + 1, after + 1, front + 1), np.float32))
        self.forward = ops.Custom(symbol("conv3d", "Conv3dForward"), _forward_shape, _same_type, "aot")
        self.input_grad = ops.Custom(symbol("conv3d", "Conv3dInputGrad"), _input_shapes, _two_types, "aot")
        self.weight_grad = ops.Custom(symbol("conv3d", "Conv3dWeightGrad"), _weight_shapes, _two_types, "aot")

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, head: Tensor) -> Tensor:
        return self.forward(x, weight, bias, head, self.geometry)

    def bprop(self, x, weight, bias, head, out, dout):
        dx, dhead = self.input_grad(dout, weight, x, head, self.geometry)
        dw, db = self.weight_grad(x, dout, weight, head, self.geometry)
        return dx, dw, db, dhead


def _forward_shape(x, weight, bias, head, geometry):
    st, sh, sw, before, after, front = geometry
    frames = x[1] + (head[1] if len(head) == 5 else front - 1)
    height, width = x[2] + before + after - 2, x[3] + before + after - 2
    return (
        x[0],
        (frames - weight[2]) // st + 1,
        (height - weight[3]) // sh + 1,
        (width - weight[4]) // sw + 1,
        weight[0],
    )


def _input_shapes(dout, weight, x, head, geometry):
    return x, head


def _weight_shapes(x, dout, weight, head, geometry):
    return weight, weight[:1]


def _same_type(x, *_):
    return x


def _two_types(x, *_):
    return x, x


conv3d = cache(Conv3dCPU)
