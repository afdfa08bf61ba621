"""Classifier-free guidance (arXiv 2207.12598)."""

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.kernels import forms


def guide(negative: Tensor, positive: Tensor, scale: Tensor | float, rescale: Tensor | float = 0.0) -> Tensor:
    """Classifier-free guidance, part of it rescaled to the positive prediction's spread (arXiv 2305.08891, 3.4).

    Args:
        negative, positive: (B, ...) predictions.
        scale: 1 gives the positive prediction, larger follows the prompt more.
        rescale: share of the rescaled result, 0 to 1.
    """
    n, p = negative.astype(ms.float32), positive.astype(ms.float32)
    v = n + scale * (p - n)
    v = rescale * (v * (_std(p) / _std(v))) + (1 - rescale) * v
    return v.astype(positive.dtype)


def _std(x: Tensor) -> Tensor:
    """Standard deviation of each sample, (B, ...) -> (B, 1, ...)."""
    h = x.reshape(x.shape[0], -1)
    h = h - forms.mean(h, 1, True)
    return ops.sqrt(forms.mean(h * h, 1)).reshape((-1,) + (1,) * (x.ndim - 1))
