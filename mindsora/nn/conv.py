"""Convolution over channels-last clips (B, T, H, W, C). What runs is decided in `mindsora.kernels.choice`."""

import math

import mindspore as ms
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.common.initializer import Uniform, initializer

from mindsora.kernels.conv3d.conv3d import conv3d, in_front
from mindsora.kernels.placeholder import nothing


class Conv3d(nn.Cell):
    """(B, T, H, W, Ci) -> (B, T', H', W', Co). Space is padded with zeros, time with frames in front.

    On Ascend this is mint.nn.functional.conv3d (nn.Conv3d is float16-only there); on CPU a compiled operator or, where
    there is no compiler, matrix products: the stock CPU kernel reaches 0.4 GFLOP/s.

    Args:
        in_channels, out_channels: Ci, Co.
        kernel, stride: (t, h, w).
        before, after: zero padding of H and W.
        front: copies of the first frame in front of a clip; a later chunk has the `head` (B, front, H, W, Ci) instead
            that it is called with.
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
        front: int = 0,
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
        self.front = front
        self.operator = conv3d(stride, before, after, front)

    def construct(self, x: Tensor, head: Tensor | None = None) -> Tensor:
        return self.convolve(x, head)

    def convolve(self, x: Tensor, head: Tensor | None = None) -> Tensor:
        weight = self.weight.reshape(self.full_shape) if self.weight.ndim == 4 else self.weight
        head = nothing("float32") if head is None else head
        if self.operator is None:
            return self._ascend(in_front(x, head, self.front), weight)
        # The CPU operator computes in float32 whatever the storage type is.
        y = self.operator(
            x.astype(ms.float32), weight.astype(ms.float32), self.bias.astype(ms.float32), head.astype(ms.float32)
        )
        return y.astype(x.dtype)

    def _ascend(self, x: Tensor, weight: Tensor) -> Tensor:
        if math.prod(self.full_shape[2:]) == 1 and math.prod(self.stride) == 1:
            rows = ops.matmul(x.reshape(-1, x.shape[-1]), weight.reshape(self.full_shape[:2]).T)
            return (rows + self.bias).reshape(x.shape[:-1] + (self.full_shape[0],))
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
        self.conv = Conv3d(in_channels, out_channels, (kernel,) * 3, (stride,) * 3, before, after, front=kernel - 1)
        self.keep = (kernel - 1) // stride
        self.lookahead = lookahead

    def construct(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor | tuple]:
        if self.keep == 0:
            return self.conv(x), ()
        # A clip of one latent frame has no look-ahead; what it leaves is read by nobody, but it must have a shape.
        end = max(x.shape[1] - self.lookahead, 1)
        kept = x[:, max(0, end - self.keep) : end]
        if end < self.keep:  # a short chunk: what stands in front of it counts too
            kept = in_front(kept, nothing("float32") if tail is None else tail, self.keep - end)[:, -self.keep :]
        return self.conv(x, tail), kept
