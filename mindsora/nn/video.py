"""Layers of the video autoencoders, over channels-last clips (B, T, H, W, C).

A caller runs a layer as `y, state = layer(x, state)`. The state holds what the layer needs from one chunk for the next;
None means that this chunk is the clip's first, and a layer without memory returns the empty tuple (graph mode cannot
return None). The Cells themselves keep no state between calls.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindsora.kernels import forms
from mindsora.nn.conv import CausalConv3d, Conv3d, Relay


class FrameAttention(nn.Cell):
    """Single-head attention among the positions of one frame. The head width is C, too wide for fused kernels.

    A subclass computes x + attend(norm(x)) and defines how `norm` sees the clip.
    """

    def __init__(self, channels: int, norm: nn.Cell):
        super().__init__()
        self.norm = norm
        self.q = CausalConv3d(channels, channels, kernel=1)
        self.k = CausalConv3d(channels, channels, kernel=1)
        self.v = CausalConv3d(channels, channels, kernel=1)
        self.proj_out = CausalConv3d(channels, channels, kernel=1)

    def attend(self, n: Tensor) -> Tensor:
        b, t, h, w, c = n.shape
        q, k, v = self.q(n)[0], self.k(n)[0], self.v(n)[0]
        q, k, v = q.reshape(b * t, h * w, c), k.reshape(b * t, h * w, c), v.reshape(b * t, h * w, c)
        scores = ops.bmm(q, k.swapaxes(1, 2)).astype(ms.float32) * c**-0.5  # (BT, HW, HW)
        a = ops.bmm(ops.softmax(scores, -1).astype(n.dtype), v)
        return self.proj_out(a.reshape(b, t, h, w, c))[0]


class Downsample(nn.Cell):
    """Halve H and W, and T if `temporal`: 3x3(x3) convolution of stride 2, padded with one zero behind H and W only."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        if temporal:
            self.conv = CausalConv3d(channels, channels, stride=2, before=0, after=1)
        else:
            self.conv = Conv3d(channels, channels, (1, 3, 3), (1, 2, 2), before=0, after=1, flat=True)
        self.temporal = temporal

    def construct(self, x: Tensor, state=None):
        if self.temporal:
            return self.conv(x, state)
        return self.conv(x), ()


def double(x: Tensor, axis: int, linear: bool) -> Tensor:
    """Double the samples along an axis: linear interpolation at quarter positions, edges clamped, or repetition."""
    n = x.shape[axis]
    a = b = x
    if linear:
        h = x.astype(ms.float32)  # as upstream v1.5
        before = ops.concat((forms.narrow(h, axis, 0, 1), forms.narrow(h, axis, 0, n - 1)), axis) if n > 1 else h
        after = ops.concat((forms.narrow(h, axis, 1, n - 1), forms.narrow(h, axis, n - 1, 1)), axis) if n > 1 else h
        a, b = (0.25 * before + 0.75 * h).astype(x.dtype), (0.75 * h + 0.25 * after).astype(x.dtype)
    return forms.stack((a, b), axis + 1).reshape(x.shape[:axis] + (2 * n,) + x.shape[axis + 1 :])


def double_frames(x: Tensor, last: Tensor | None, linear: bool) -> Tensor:
    """Double the frames of a chunk. The clip's first frame stays single, and the other frames do not see it.

    last: the frame before the chunk (not the clip's first frame); None if this chunk begins the clip.
    """
    if last is not None:
        return forms.cut(double(ops.concat((last, x), 1), 1, linear), 1, 2)
    if x.shape[1] == 1:
        return x
    return ops.concat((forms.cut(x, 1, 0, 1), double(forms.cut(x, 1, 1), 1, linear)), 1)


def last_frame(x: Tensor, lookahead: int) -> Tensor:
    """The last frame of a chunk that carries `lookahead` frames of the next; for a clip of one frame, that frame."""
    end = max(x.shape[1] - lookahead, 1)  # see CausalConv3d
    return forms.cut(x, 1, end - 1, end)


class Upsample3D(nn.Cell):
    """Double T (the clip's first frame stays single), H and W, then a causal convolution.

    Time interpolation needs one later frame, so an input chunk has `lookahead` more frames than its output covers.
    """

    def __init__(self, channels: int, linear: bool, lookahead: int):
        super().__init__()
        self.conv = CausalConv3d(channels, channels, lookahead=2 * lookahead)
        self.linear = linear
        self.lookahead = lookahead
        self.relay: Relay | None = None  # as of CausalConv3d

    def construct(self, x: Tensor, state=None):
        last, tail = (None, None) if state is None else state
        after = last_frame(x, self.lookahead)
        if self.relay is not None:
            last, after = self.relay(after, last)
        y = double_frames(x, last, self.linear)
        # The spatial step is always bilinear; t_interpolation applies to time only.
        y, tail = self.conv(double(double(y, 2, True), 3, True), tail)
        return y, (after, tail)


class FrameConv(nn.Cell):
    """3x3 convolution of every frame whose kernel is stored with a time axis, (Co, Ci, 1, 3, 3)."""

    def __init__(self, channels: int, stride: int, before: int):
        super().__init__()
        self.conv = Conv3d(channels, channels, (1, 3, 3), (1, stride, stride), before=before, after=1)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SpatialDownsample(nn.Cell):
    """Halve H and W: 3x3 convolution of stride 2, padded with one zero behind H and W only; no state."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = FrameConv(channels, stride=2, before=0)

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return self.conv(x), ()


class SpatialUpsample(nn.Cell):
    """Double H and W by repetition, then a 3x3 convolution of every frame; no state."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = FrameConv(channels, stride=1, before=1)

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return self.conv(double(double(x, 2, False), 3, False)), ()


class TimeDownsample(nn.Cell):
    """Halve T: average each frame with the two before it. Two copies of the clip's first frame pad the front."""

    def __init__(self, channels: int):
        super().__init__()

    def construct(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, state = self.behind(x, state)
        return self.mean(x), state

    def behind(self, x: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prepend the frames that a chunk needs (2 n + 1 in all); also return the frame that the next chunk needs."""
        first = forms.cut(x, 1, 0, 1)
        x = ops.concat((first, first, x), 1) if last is None else ops.concat((last, x), 1)
        return x, forms.cut(x, 1, -1)

    def mean(self, x: Tensor) -> Tensor:
        b, t, h, w, c = x.shape
        # No stepped slices: on CPU their gradient reads out of bounds (MindSpore 2.10).
        pairs = (b, t // 2, 2, h, w, c)
        first, third = forms.cut(x, 1, 0, -1).reshape(pairs), forms.cut(x, 1, 1).reshape(pairs)
        middle, third = forms.narrow(first, 2, 1, 1), forms.narrow(third, 2, 1, 1)
        return ((forms.narrow(first, 2, 0, 1) + middle + third) * (1 / 3)).reshape(b, t // 2, h, w, c)


class TimeDownsampleMixed(TimeDownsample):
    """A learned mixture of the mean of `TimeDownsample` and a 3x3x3 convolution of the same frames."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.conv = Conv3d(channels, channels, (3, 3, 3), (2, 1, 1), before=1, after=1)
        self.mix_factor = Parameter(initializer(2.0, (1,)))

    def construct(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, state = self.behind(x, state)
        share = ops.sigmoid(self.mix_factor)
        return share * self.mean(x) + (1 - share) * self.conv(x), state


class TimeUpsample(nn.Cell):
    """Double T by linear interpolation with one frame of look-ahead. The clip's first frame stays single."""

    def __init__(self, channels: int):
        super().__init__()
        self.lookahead = 1

    def construct(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return double_frames(x, state, True), last_frame(x, self.lookahead)


class TimeUpsampleMixed(nn.Cell):
    """A learned mixture of the frames of `TimeUpsample` and a causal convolution of them."""

    def __init__(self, channels: int):
        super().__init__()
        self.lookahead = 1
        self.conv = CausalConv3d(channels, channels, lookahead=2)
        self.mix_factor = Parameter(initializer(2.0, (1,)))

    def construct(self, x: Tensor, state=None):
        last, tail = (None, None) if state is None else state
        frames = double_frames(x, last, True)
        y, tail = self.conv(frames, tail)
        share = ops.sigmoid(self.mix_factor)
        return share * frames + (1 - share) * y, (last_frame(x, self.lookahead), tail)
