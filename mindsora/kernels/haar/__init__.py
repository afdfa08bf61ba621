"""Haar wavelet transform of channels-last clips, over t, y and x or frame by frame, and its transpose. See README.md."""

from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.choice import choose
from mindsora.kernels.haar import cpu, reference


def split(x: Tensor, *, temporal: bool, scale: float) -> Tensor:
    """`scale` times the signed sums over every 2 x 2 x 2 block, or over every 2 x 2 block of a frame.

    Args:
        x: (B, T, H, W, C); H and W are even, and T if `temporal`.

    Returns:
        (B, T/2, H/2, W/2, 8C), or (B, T, H/2, W/2, 4C), in x's dtype; channel = band * C + c. The binary digits of the
        band mark the axes along which the sign alternates: t, y, x, or x, y.

    Raises:
        InputError: an axis is odd.
    """
    if _kind(x.dtype, x.shape, temporal) == "reference":
        return reference.split(x, temporal) * scale
    return cpu.split(temporal, scale)(x)


def join(y: Tensor, *, temporal: bool, scale: float) -> Tensor:
    """The transpose of `split`, from its output shape to its input shape; the inverse if scale^2 is 1/8 or 1/4."""
    if _kind(y.dtype, None, temporal) == "reference":
        return reference.join(y, temporal) * scale
    return cpu.join(temporal, scale)(y)


@ops.constexpr
def _kind(dtype, shape, temporal):
    if shape is not None and (shape[2] % 2 or shape[3] % 2 or (temporal and shape[1] % 2)):
        axes = "T, H and W" if temporal else "H and W"
        raise InputError(f"a clip (B, T, H, W, C) of shape {shape} must have even {axes}")
    return choose("haar", {"x": dtype})
