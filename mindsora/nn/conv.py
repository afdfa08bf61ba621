"""Convolution over channels-last clips (B, T, H, W, C). What runs is decided in `mindsora.kernels.choice`."""

import math

import mindspore as ms
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.common.initializer import Uniform, initializer

from mindsora.kernels.conv3d.conv3d import conv3d


class Conv3d(nn.Cell):
    """(B, T, H, W, Ci) -> (B, T', H', W', Co); time is not padded, space by `before` and `after` zeros in H and W.

    On Ascend this is mint.nn.functional.conv3d (nn.Conv3d is float16-only there); on CPU a compiled operator or, where
    there is no compiler, matrix products: the stock CPU kernel reaches 0.4 GFLOP/s.

    Args:
        in_channels, out_channels: Ci, Co.
        kernel, stride: (t, h, w).
        before, after: zero padding of H and W.
        flat: the kernel has no time axis in checkpoints, as in a 2-D convolution: (Co, Ci, kh, kw).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
        before: int = 0,
        after: int = 0,
        flat: bool = False,
    ):
        super().__init__()
        shape = (out_channels, in_channels) + (kernel[1:] if flat else kernel)
        init = Uniform(1 / math.sqrt(math.prod(shape[1:])))  # PyTorch's default
        self.weight = Parameter(initializer(init, shape))
        self.bias = Parameter(initializer(init, (out_channels,)))
        self.full_shape = (out_channels, in_channels) + kernel
        self.stride = stride
        self.before = before
        self.after = after
        self.pointwise = math.prod(kernel) == 1 and math.prod(stride) == 1
        self.operator = None if self.pointwise else conv3d(stride, before, after)

    def construct(self, x: Tensor) -> Tensor:
        return self.convolve(x)

    def convolve(self, x: Tensor) -> Tensor:
        weight = self.weight.reshape(self.full_shape)
        if self.pointwise:
            rows = ops.matmul(x.reshape(-1, x.shape[-1]), weight.reshape(self.full_shape[:2]).T)
            return (rows + self.bias).reshape(x.shape[:-1] + (self.full_shape[0],))
        if self.operator is None:
            return self._ascend(x, weight)
        # The CPU operator computes in float32 whatever the storage type is.
        y = self.operator(x.astype(ms.float32), weight.astype(ms.float32), self.bias.astype(ms.float32))
        return y.astype(x.dtype)

    def _ascend(self, x: Tensor, weight: Tensor) -> Tensor:
        x = x.transpose(0, 4, 1, 2, 3)
        if self.before == self.after:
            y = mint.nn.functional.conv3d(x, weight, self.bias, self.stride, (0, self.before, self.before))
        else:
            b, c, t, h, w = x.shape
            x = ops.concat((x, ops.zeros((b, c, t, self.after, w), x.dtype)), 3)
            x = ops.concat((x, ops.zeros((b, c, t, h + self.after, self.after), x.dtype)), 4)
            y = mint.nn.functional.conv3d(x, weight, self.bias, self.stride)
        return y.transpose(0, 2, 3, 4, 1)


class Conv2d(Conv3d):
    """3x3 convolution of every frame, padding 1. Called as the causal layers are; its state is empty."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, (1, 3, 3), before=1, after=1, flat=True)

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return self.convolve(x), ()


class CausalConv3d(nn.Cell):
    """Convolution that sees no later frame: kernel - 1 frames stand in front, copies of the first or the cached tail.

    Called with the frames an earlier chunk left (None on the first chunk); gives the frames the next chunk needs
    (autoencoders: causal cache). `lookahead` trailing frames of a chunk are not part of it and leave no trace.

    Args:
        kernel, stride: one number for T, H and W.
        before, after: zero padding of H and W.
        lookahead: look-ahead frames at this depth of the decoder.
    """

    def __init__(self, in_channels, out_channels, kernel=3, stride=1, before=None, after=None, lookahead=0):
        super().__init__()
        before = (kernel - 1) // 2 if before is None else before
        after = (kernel - 1) // 2 if after is None else after
        self.conv = Conv3d(in_channels, out_channels, (kernel,) * 3, (stride,) * 3, before, after)
        self.front = kernel - 1
        self.keep = (kernel - 1) // stride
        self.lookahead = lookahead

    def construct(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor | tuple]:
        if self.front == 0:
            return self.conv(x), ()
        first = tail is None
        for _ in range(self.front if first else 0):
            x = ops.concat((x[:, :1], x), 1)
        if not first:
            x = ops.concat((tail, x), 1)
        # The first chunk is one latent frame without look-ahead, so nothing is cut from it.
        end = x.shape[1] if first else x.shape[1] - self.lookahead
        return self.conv(x), x[:, end - self.keep : end]
