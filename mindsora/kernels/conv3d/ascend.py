"""Convolution on Ascend through MindSpore's operator (nn.Conv3d is float16-only there). Not measured on Ascend."""

import math

from mindspore import Tensor, mint, ops

from mindsora.kernels.conv3d.reference import in_front, zeros_around


def conv3d(x: Tensor, weight: Tensor, bias: Tensor, head: Tensor, *, stride, before, after, front) -> Tensor:
    """See `mindsora.kernels.conv3d.conv3d`."""
    x = in_front(x, head, front)
    co, ci, kt, kh, kw = weight.shape
    if kt * kh * kw == 1 and math.prod(stride) == 1:
        rows = ops.matmul(x.reshape(-1, ci), weight.reshape(co, ci).T)
        return (rows + bias).reshape(x.shape[:-1] + (co,))
    x = x.transpose(0, 4, 1, 2, 3)  # (B, Ci, T, H, W)
    padding = (0, before, before)
    if before != after:
        x, padding = zeros_around(zeros_around(x, 3, before, after), 4, before, after), (0, 0, 0)
    return mint.nn.functional.conv3d(x, weight, bias, stride, padding).transpose(0, 2, 3, 4, 1)
