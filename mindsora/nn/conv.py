"""Convolution over channels-last clips (B, T, H, W, C), by `mindsora.kernels.conv3d`."""

import math

from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import Uniform, initializer

from mindsora.kernels import forms
from mindsora.kernels.choice import choose
from mindsora.kernels.conv3d import conv3d
from mindsora.kernels.conv3d.reference import in_front
from mindsora.kernels.placeholder import nothing
from mindsora.parallel.collectives import Gather, Group


class Conv3d(nn.Cell):
    """(B, T, H, W, Ci) -> (B, T', H', W', Co). Space is padded with zeros, time with frames in front.

    Args:
        in_channels, out_channels: Ci, Co.
        kernel, stride: (t, h, w).
        before, after: zero padding of H and W.
        front: copies of the first frame in front of a clip; a later chunk passes `head` (B, front, H, W, Ci) instead.
        flat: checkpoints store the kernel without a time axis, as for a 2-D convolution: (Co, Ci, kh, kw).
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
        choose("conv3d")  # compiles the operator here if needed, not in the middle of the first call

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
    """3x3 convolution of every frame, padding 1. It has the signature of the causal layers, with an empty state."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, (1, 3, 3), before=1, after=1, flat=True)

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return self.convolve(x), ()


class Relay(nn.Cell):
    """Neighbouring chunks of a clip on neighbouring ranks: each layer's frames go from a chunk to the one after it.

    The ranks of a group work on R chunks at once, then on the next R. What a layer keeps for the next chunk is a part of
    its input, so that no rank waits for the end of another's chunk.
    """

    def __init__(self, group: Group):
        super().__init__()
        self.rank, self.ranks = group.rank, group.size
        self.all = Gather(group, 0)

    def construct(self, kept: Tensor, state: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Frames that a rank's chunk leaves, and those before the R chunks -> those before its own, and after the R."""
        every = forms.chunk(self.all(kept), self.ranks, 0)
        return state if self.rank == 0 else every[self.rank - 1], every[self.ranks - 1]


class CausalConv3d(nn.Cell):
    """Convolution that sees no later frame: it prepends kernel - 1 frames, copies of the first frame or the cached tail.

    `construct` takes the frames that the previous chunk left (None for the first chunk) and returns the frames that the
    next chunk needs (the causal cache of the autoencoders). The last `lookahead` frames of a chunk belong to the next
    chunk and do not enter the cache.

    Args:
        kernel, stride: one number for T, H and W.
        before, after: zero padding of H and W.
        lookahead: look-ahead frames at this depth of the decoder.

    Attributes:
        relay: what ranks with neighbouring chunks exchange; None: this process has all chunks.
    """

    def __init__(self, in_channels, out_channels, kernel=3, stride=1, before=None, after=None, lookahead=0):
        super().__init__()
        before = (kernel - 1) // 2 if before is None else before
        after = (kernel - 1) // 2 if after is None else after
        self.conv = Conv3d(in_channels, out_channels, (kernel,) * 3, (stride,) * 3, before, after, front=kernel - 1)
        self.keep = (kernel - 1) // stride
        self.lookahead = lookahead
        self.relay: Relay | None = None

    def construct(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor | tuple]:
        if self.keep == 0:
            return self.conv(x), ()
        # A clip of one latent frame has no look-ahead. Nothing reads its cache, but the cache must have a shape.
        end = max(x.shape[1] - self.lookahead, 1)
        kept = forms.cut(x, 1, max(0, end - self.keep), end)
        if end < self.keep:  # a short chunk: the cache also takes frames from in front of it
            kept = in_front(kept, nothing("float32") if tail is None else tail, self.keep - end)
            kept = forms.cut(kept, 1, -self.keep)
        if self.relay is not None:
            tail, kept = self.relay(kept, tail)
        return self.conv(x, tail), kept
