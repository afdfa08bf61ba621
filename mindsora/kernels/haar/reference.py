"""The Haar transform as signed sums in plain MindSpore: the definition of the result, without the scale."""

from mindspore import Tensor, ops

from mindsora.kernels import forms


def split(x: Tensor, temporal: bool) -> Tensor:
    """See `mindsora.kernels.haar.split`. Upstream counts the bands of the two transforms in different orders."""
    if temporal:
        return _split(_split(_split(x, 3), 2), 1)
    return _split(_split(x, 2), 3)


def join(y: Tensor, temporal: bool) -> Tensor:
    """See `mindsora.kernels.haar.join`."""
    if temporal:
        return _join(_join(_join(y, 1), 2), 3)
    return _join(_join(y, 3), 2)


def _split(x: Tensor, axis: int) -> Tensor:
    """Sums and differences of neighbours along an axis: half as long, twice the channels (sums first)."""
    shape = x.shape
    pairs = x.reshape(shape[:axis] + (shape[axis] // 2, 2) + shape[axis + 1 :])
    half = shape[:axis] + (shape[axis] // 2,) + shape[axis + 1 :]
    a, b = forms.narrow(pairs, axis + 1, 0, 1).reshape(half), forms.narrow(pairs, axis + 1, 1, 1).reshape(half)
    return ops.concat((a + b, a - b), -1)


def _join(x: Tensor, axis: int) -> Tensor:
    """Transpose of _split: twice as long, half the channels."""
    shape = x.shape
    channels = shape[-1] // 2
    low, high = forms.narrow(x, -1, 0, channels), forms.narrow(x, -1, channels, channels)
    both = forms.stack((low + high, low - high), axis + 1)
    return both.reshape(shape[:axis] + (2 * shape[axis],) + shape[axis + 1 : -1] + (channels,))
