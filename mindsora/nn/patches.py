"""Latent video to tokens and back, frame by frame, with tokens in (t, y, x) order.

p: side of a patch. Latent rows and columns that do not fill a patch are dropped.
"""

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer

from mindsora.kernels import forms


class PatchEmbed(nn.Cell):
    """Convolution with kernel = stride = p over every frame, as a matrix product: (B, c, T, H, W) -> (B, N, C)."""

    def __init__(self, patch: int, in_channels: int, dim: int):
        super().__init__()
        self.patch = patch
        bound = 1 / math.sqrt(in_channels * patch * patch)
        self.weight = Parameter(initializer(Uniform(bound), (dim, in_channels, patch, patch)))
        self.bias = Parameter(initializer("zeros", (dim,)))

    def construct(self, x: Tensor) -> Tensor:
        b, c, t, height, width = x.shape
        p = self.patch
        h, w = height // p, width // p
        x = forms.narrow(forms.narrow(x, 3, 0, h * p), 4, 0, w * p)
        x = x.reshape(b, c, t, h, p, w, p).transpose(0, 2, 3, 5, 1, 4, 6)  # (B, T, h, w, c, p, p)
        x = x.reshape(b * t * h * w, c * p * p)
        x = ops.MatMul(transpose_b=True)(x, self.weight.reshape(-1, c * p * p)) + self.bias
        return x.reshape(b, t * h * w, -1)


def unpatchify(x: Tensor, grid: tuple[int, int, int], p: int) -> Tensor:
    """(B, N, p * p * c) on a (T, h, w) grid, channels fastest -> (B, c, T, h * p, w * p)."""
    t, h, w = grid
    c = x.shape[-1] // (p * p)
    x = x.reshape(-1, t, h, w, p, p, c).transpose(0, 6, 1, 2, 4, 3, 5)  # (B, c, T, h, p, w, p)
    return x.reshape(-1, c, t, h * p, w * p)


def pool_mask(mask: Tensor, p: int) -> Tensor:
    """(B, T, H, W) -> (B, N). A token is real if any of its latents is real."""
    b, t, height, width = mask.shape
    h, w = height // p, width // p
    mask = forms.narrow(forms.narrow(mask, 2, 0, h * p), 3, 0, w * p)
    return mask.astype(ms.float32).reshape(b, t, h, p, w, p).amax((3, 5)).reshape(b, -1)
