"""Group norm over video clips, and the blocks built on it. Clips are channels-last (B, T, H, W, C).

Every layer takes a clip as a tuple of chunks along time (a whole clip is one chunk) and returns a tuple of the same
length. The norms require this: their mean and variance cover the whole clip, so a layer must see all chunks before it
returns the first. Chunked and whole results are therefore the same, while the scratch memory of a layer (normalised
copies, padded copies, interpolated frames) covers one chunk at a time.

The autoencoders do not use `compile_once`: their equal blocks see clips of several sizes in one graph, and with a shared
graph MindSpore 2.10 reshaped one block's clip to the size of another's, on one machine of two.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindsora.kernels import forms
from mindsora.kernels.rows import PerToken, repeated
from mindsora.nn.conv import CausalConv3d, Conv2d, Conv3d
from mindsora.nn.video import FrameAttention

GROUPS = 32
EPS = 1e-6


class GroupNorm(nn.Cell):
    """Normalise each of 32 groups of channels over a whole clip, given as chunks (B, T, H, W, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(initializer("ones", (channels,)))
        self.bias = Parameter(initializer("zeros", (channels,)))
        self.wide = PerToken()

    def factors(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean to subtract from a clip and scale to multiply it with, (B, 1, C) each, and bias to add."""
        total, count = 0, 0
        for x in parts:
            total = total + self._sum(x)
            count = count + x.shape[1] * x.shape[2] * x.shape[3]
        mean = self._over_group(total / count)  # (B, 1, C)
        square = 0
        for x in parts:
            b, t, h, w, c = x.shape
            d = x.reshape(b, -1, c).astype(ms.float32) - self.wide(mean, t * h * w)
            square = square + self._sum((d * d).reshape(x.shape))
        scale = self.weight.astype(ms.float32) / ops.sqrt(self._over_group(square / count) + EPS)
        return mean, scale, repeated(self.bias.astype(ms.float32), mean)

    def construct(self, x: Tensor, factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """One chunk, normalised."""
        b, t, h, w, c = x.shape
        mean, scale, bias = factors
        # x * scale + (bias - mean * scale) would cancel two large terms where the mean is many deviations.
        rows = x.reshape(b, -1, c).astype(ms.float32) - self.wide(mean, t * h * w)
        rows = rows * self.wide(scale, t * h * w) + self.wide(bias, t * h * w)
        return rows.astype(x.dtype).reshape(x.shape)

    def _sum(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, 1, C), summed frame by frame: one float32 sum over millions of samples loses digits."""
        b, t, h, w, c = x.shape
        ones = ops.ones((b * t, 1, h * w), ms.float32)
        frames = ops.bmm(ones, x.reshape(b * t, h * w, c).astype(ms.float32))  # quicker than a sum, see kernels/rows.py
        return frames.reshape(b, t, c).sum(1, keepdims=True)

    def _over_group(self, y: Tensor) -> Tensor:
        """(B, 1, C) -> (B, 1, C): replace each channel by the mean over its group."""
        groups = y.reshape(-1, GROUPS, y.shape[2] // GROUPS)
        return forms.mean(groups, -1, True).broadcast_to(groups.shape).reshape(y.shape)


class InChunks(nn.Cell):
    """Run a causal layer, `y, state = layer(x, state)`, over all chunks of a clip.

    A layer with `lookahead` 1 doubles the frames and needs the first frame of the next chunk to do so.
    """

    def __init__(self, layer: nn.Cell):
        super().__init__()
        self.layer = layer
        self.lookahead = getattr(layer, "lookahead", 0)

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state, after = None, ()
        for i in range(len(parts)):
            x = parts[i]
            ahead = self.lookahead if i + 1 < len(parts) else 0
            if ahead:
                x = ops.concat((x, forms.cut(parts[i + 1], 1, 0, ahead)), 1)
            y, state = self.layer(x, state)
            after = after + (forms.cut(y, 1, 0, y.shape[1] - 2 * ahead),)
        return after


class ResnetBlock2D(nn.Cell):
    """Two 3x3 convolutions of every frame, each after norm and SiLU; the norms see one frame."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = Conv2d(in_channels, out_channels)
        self.norm2 = GroupNorm(out_channels)
        self.conv2 = Conv2d(out_channels, out_channels)
        self.widens = in_channels != out_channels
        if self.widens:
            self.nin_shortcut = Conv3d(in_channels, out_channels, (1, 1, 1), flat=True)

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        after = ()
        for part in parts:
            b, t, h, w, c = part.shape
            x = part.reshape(b * t, 1, h, w, c)
            y = self.conv1(ops.silu(self.norm1(x, self.norm1.factors((x,)))))[0]
            y = self.conv2(ops.silu(self.norm2(y, self.norm2.factors((y,)))))[0]
            if self.widens:
                x = self.nin_shortcut(x)
            after = after + ((x + y).reshape(b, t, h, w, -1),)
        return after


class ResnetBlock3D(nn.Cell):
    """Two causal 3x3x3 convolutions, each after norm and SiLU; a 1x1x1 shortcut if the width changes."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = GroupNorm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.widens = in_channels != out_channels
        if self.widens:
            self.nin_shortcut = CausalConv3d(in_channels, out_channels, kernel=1)

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        factors, tail, inner = self.norm1.factors(parts), None, ()
        for x in parts:
            y, tail = self.conv1(ops.silu(self.norm1(x, factors)), tail)
            inner = inner + (y,)
        factors, tail, after = self.norm2.factors(inner), None, ()
        for i in range(len(parts)):
            y, tail = self.conv2(ops.silu(self.norm2(inner[i], factors)), tail)
            x = self.nin_shortcut(parts[i])[0] if self.widens else parts[i]
            after = after + (x + y,)
        return after


class AttentionBlock(FrameAttention):
    """Attention within every frame (upstream: AttnBlock3DFix)."""

    def __init__(self, channels: int):
        super().__init__(channels, GroupNorm(channels))

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        factors, after = self.norm.factors(parts), ()
        for x in parts:
            after = after + (x + self.attend(self.norm(x, factors)),)
        return after


class MixedAttentionBlock(FrameAttention):
    """Upstream's first attention (AttnBlock3D). It reads the axes (C, T) of a clip as (T, C), which mixes the two.

    Old weights were trained with it. It needs the clip in one piece.
    """

    def __init__(self, channels: int):
        super().__init__(channels, GroupNorm(channels))

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = ops.concat(parts, 1)
        b, t, h, w, c = x.shape
        n = self.norm(x, self.norm.factors((x,)))
        q, k, v = self.mixed(self.q(n)[0]), self.mixed(self.k(n)[0]), self.mixed(self.v(n)[0])
        scores = ops.bmm(q.swapaxes(1, 2), k).astype(ms.float32) * c**-0.5  # (BT, HW, HW)
        a = ops.bmm(v, ops.softmax(scores, -1).astype(x.dtype).swapaxes(1, 2))  # (BT, C, HW)
        y = x + self.proj_out(a.reshape(b, c, t, h, w).transpose(0, 2, 3, 4, 1))[0]
        after, start = (), 0
        for part in parts:
            after = after + (forms.narrow(y, 1, start, part.shape[1]),)
            start = start + part.shape[1]
        return after

    def mixed(self, x: Tensor) -> Tensor:
        b, t, h, w, c = x.shape
        return x.transpose(0, 4, 1, 2, 3).reshape(b * t, c, h * w)
