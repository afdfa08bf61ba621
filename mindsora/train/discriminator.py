"""The three-dimensional patch discriminator of the video autoencoders' adversarial training."""

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindsora.kernels.conv3d import conv3d

SPREAD = 0.02  # standard deviation of new weights
_EPS = 1e-5
FACTORS = (1, 2, 4, 8, 8)  # widths of the first five convolutions, in units of the first
STRIDES = ((2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 1, 1))  # of the second to the fifth


class PaddedConv3d(nn.Cell):
    """3x3x3 convolution, one zero around T, H and W: (B, T, H, W, Ci) -> (B, T', H', W', Co)."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], bias: bool):
        super().__init__()
        self.weight = Parameter(initializer(Normal(SPREAD), (out_channels, in_channels, 3, 3, 3)))
        zeros = initializer("zeros", (out_channels,))
        self.bias = Parameter(zeros) if bias else zeros.init_data()
        self.stride = stride

    def construct(self, x: Tensor) -> Tensor:
        b, _, h, w, c = x.shape
        zeros = ops.zeros((b, 1, h, w, c), x.dtype)  # the operator pads time with copies of frames, not with zeros
        x = ops.concat((zeros, x, zeros), 1)
        return conv3d(x, self.weight, self.bias, stride=self.stride, before=1, after=1, front=0)


class BatchNorm(nn.Cell):
    """Normalise every channel of (B, T, H, W, C) over the batch, then scale and shift.

    Upstream's discriminator never leaves training mode, so it never reads the running statistics; here there are none.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(initializer(Normal(SPREAD, 1.0), (channels,)))
        self.bias = Parameter(initializer("zeros", (channels,)))

    def construct(self, x: Tensor) -> Tensor:
        mean, variance = self.statistics(x)
        return (x - mean) * ops.rsqrt(variance + _EPS) * self.weight + self.bias

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of every channel, two (C,)."""
        mean = x.mean((0, 1, 2, 3))
        centred = x - mean
        return mean, (centred * centred).mean((0, 1, 2, 3))


class LeakyReLU(nn.Cell):
    """x where it is positive, 0.2 x elsewhere."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.maximum(x, 0.2 * x)


class Discriminator(nn.Cell):
    """Clips (B, T, H, W, 3) in [-1, 1] -> one logit per patch, (B, t, h, w, 1).

    Parameters have the names of upstream's NLayerDiscriminator3D.

    Args:
        channels: of the first convolution; upstream 64.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        parts = [PaddedConv3d(3, channels, (2, 2, 2), bias=True), LeakyReLU()]
        for (factor, wider), stride in zip(zip(FACTORS, FACTORS[1:]), STRIDES):
            parts += [PaddedConv3d(factor * channels, wider * channels, stride, bias=False)]
            parts += [BatchNorm(wider * channels), LeakyReLU()]
        self.main = nn.CellList([*parts, PaddedConv3d(FACTORS[-1] * channels, 1, (1, 1, 1), bias=True)])

    def construct(self, x: Tensor) -> Tensor:
        for i in range(len(self.main)):
            x = self.main[i](x)
        return x
