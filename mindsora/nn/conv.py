"""Convolution over channels-last clips (B, T, H, W, C), by `mindsora.kernels.conv3d`."""

import math

from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import Uniform, initializer

from mindsora.kernels import forms
from mindsora.kernels.choice import choose
from mindsora.kernels.conv3d import conv3d
from mindsora.kernels.conv3d.reference import in_front
from mindsora.kernels.placeholder import nothing


class Conv3d(nn.Cell):
    """(B, T, H, W, Ci) -> (B, T', H', W', Co). Space is padded with zeros, time with frames in front.

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
        choose("conv3d")  # compiled here where it has to be, not in the middle of the first call

    def construct(self, x: Tensor, head: Tensor | None = None) -> Tensor:
        return self.convolve(x, head)

    def convolve(self, x: Tensor, head: Tensor | None = None) -> Tensor:
        weight = self.weight.reshape(self.full_shape) if self.weight.ndim == 4 else self.weight
        return conv3d(
            x,
            weight,
            self.bias,
            head,
            stride=self.stride,
            before=self.before,
            after=self.after,
            front=self.front,
        )


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
        kept = forms.cut(x, 1, max(0, end - self.keep), end)
        if end < self.keep:  # a short chunk: what stands in front of it counts too
            kept = in_front(kept, nothing("float32") if tail is None else tail, self.keep - end)
            kept = forms.cut(kept, 1, -self.keep)
        return self.conv(x, tail), kept
