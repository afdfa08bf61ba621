"""Haar wavelets over channels-last clips (B, T, H, W, C); output channel = band * C + colour.

The band number of the 3-D transform has t, y, x as its binary digits 4, 2, 1; that of the 2-D transform has y, x as
1, 2. These are upstream's orders, and the weights depend on them.
"""

from mindspore import Tensor, ops

from mindsora.kernels import forms
from mindsora.kernels.haar import join, split

# Upstream's literal, not 1 / (2 sqrt 2) = 0.353553...: the exact value shifts encoder moments by 4e-4.
COEFFICIENT_3D = 0.3536
COEFFICIENT_2D = 0.5


def haar3d(x: Tensor, first_chunk: bool = True) -> Tensor:
    """(B, T, H, W, C) -> (B, (T-1)//2+1, H/2, W/2, 8C). The first chunk sees its first frame twice."""
    if first_chunk:
        x = ops.concat((forms.cut(x, 1, 0, 1), x), 1)
    if x.shape[1] % 2:
        x = forms.cut(x, 1, 0, -1)
    return split(x, temporal=True, scale=COEFFICIENT_3D)


def inverse_haar3d(x: Tensor, first_chunk: bool = True) -> Tensor:
    """(B, T, H, W, 8C) -> (B, 2T-1, 2H, 2W, C); a later chunk keeps all 2T frames."""
    y = join(x, temporal=True, scale=COEFFICIENT_3D)
    return forms.cut(y, 1, 1) if first_chunk else y


def haar2d(x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B, T, H/2, W/2, 4C), frame by frame."""
    return split(x, temporal=False, scale=COEFFICIENT_2D)


def inverse_haar2d(x: Tensor) -> Tensor:
    """(B, T, H, W, 4C) -> (B, T, 2H, 2W, C), the exact inverse of haar2d."""
    return join(x, temporal=False, scale=COEFFICIENT_2D)
