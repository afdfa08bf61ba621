"""Haar wavelets over channels-last clips (B, T, H, W, C) as signed sums; output channel = band * C + colour.

Bands of the 3-D transform count t, y, x as the binary digits 4, 2, 1; those of the 2-D one y, x as 1, 2: upstream's
orders, which weights depend on.
"""

from mindspore import Tensor, ops

# Upstream's literal, not 1 / (2 sqrt 2) = 0.353553...: the exact value shifts encoder moments by 4e-4.
COEFFICIENT_3D = 0.3536
COEFFICIENT_2D = 0.5


def _split(x: Tensor, axis: int) -> Tensor:
    """Sums and differences of neighbours along an axis: half as long, twice the channels (sums first)."""
    shape = x.shape
    pairs = x.reshape(shape[:axis] + (shape[axis] // 2, 2) + shape[axis + 1 :])
    half = shape[:axis] + (shape[axis] // 2,) + shape[axis + 1 :]
    a, b = pairs.narrow(axis + 1, 0, 1).reshape(half), pairs.narrow(axis + 1, 1, 1).reshape(half)
    return ops.concat((a + b, a - b), -1)


def _join(x: Tensor, axis: int) -> Tensor:
    """Transpose of _split: twice as long, half the channels."""
    shape = x.shape
    channels = shape[-1] // 2
    low, high = x.narrow(-1, 0, channels), x.narrow(-1, channels, channels)
    both = ops.stack((low + high, low - high), axis + 1)
    return both.reshape(shape[:axis] + (2 * shape[axis],) + shape[axis + 1 : -1] + (channels,))


def haar3d(x: Tensor, first_chunk: bool = True) -> Tensor:
    """(B, T, H, W, C) -> (B, (T-1)//2+1, H/2, W/2, 8C). The first chunk sees its first frame twice."""
    if first_chunk:
        x = ops.concat((x[:, :1], x), 1)
    x = x[:, : x.shape[1] // 2 * 2]
    return _split(_split(_split(x, 3), 2), 1) * COEFFICIENT_3D


def inverse_haar3d(x: Tensor, first_chunk: bool = True) -> Tensor:
    """(B, T, H, W, 8C) -> (B, 2T-1, 2H, 2W, C); a later chunk keeps all 2T frames."""
    y = _join(_join(_join(x, 1), 2), 3) * COEFFICIENT_3D
    return y[:, 1:] if first_chunk else y


def haar2d(x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, T, H/2, W/2, 4C), every frame alone."""
    return _split(_split(x, 2), 3) * COEFFICIENT_2D


def inverse_haar2d(x: Tensor) -> Tensor:
    """(B, T, H, W, 4C) -> (B, T, 2H, 2W, C), exactly undoing haar2d."""
    return _join(_join(x, 3), 2) * COEFFICIENT_2D
