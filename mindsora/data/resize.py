"""Resizing with corners aligned and antialiasing, as the training of the weights did: PyTorch's rule for both flags.

The scale comes from the distance of the outermost pixels' centres, (in - 1) / (out - 1), the sampling points from pixel
areas, scale * (i + 1/2); a kernel that grows with the scale averages what lies under it. Bicubic leaves the range of the
input by a little and is not clipped.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

INTERPOLATION = {"v1.5": "bicubic", "v1.3": "bilinear"}
_BLOCK = 8  # output rows computed together: the weights of distant rows are 0, so whole matrices would waste most work


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_KERNELS: dict[str, tuple[float, Callable]] = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic)}


@lru_cache(maxsize=256)  # two for each size of files and bucket
def weights(size: int, out: int, mode: str) -> np.ndarray:
    """(out, size) float32: how much of every input row an output row is."""
    radius, kernel = _KERNELS[mode]
    scale = (size - 1) / (out - 1) if out > 1 else 0.0
    stretch = max(scale, 1.0)
    centres = scale * (np.arange(out) + 0.5)[:, None]
    first = np.maximum((centres - radius * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + radius * stretch + 0.5).astype(np.int64), size)
    places = np.arange(size)
    table = kernel((places - centres + 0.5) / stretch) * ((places >= first) & (places < last))
    return (table / table.sum(1, keepdims=True)).astype(np.float32)


def resize(frame: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Interpolate a frame (H, W, C), uint8 or float32, to (height, width, C) float32; mode: "bicubic" or "bilinear"."""
    rows, columns, channels = frame.shape
    if rows != height:
        frame = _apply(weights(rows, height, mode), frame.reshape(rows, -1)).reshape(height, columns, channels)
    if columns != width:
        planes = np.ascontiguousarray(frame.transpose(1, 2, 0)).reshape(columns, -1)  # (W, C * height)
        frame = _apply(weights(columns, width, mode), planes).reshape(width, channels, height).transpose(2, 0, 1)
    return frame.astype(np.float32, copy=False)


def _apply(table: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """table @ lines, in blocks of rows that leave out columns of zeros."""
    out = np.empty((len(table), lines.shape[1]), np.float32)
    for start in range(0, len(table), _BLOCK):
        block = table[start : start + _BLOCK]
        used = np.flatnonzero(block.any(0))
        seen = slice(used[0], used[-1] + 1)
        np.matmul(block[:, seen], lines[seen].astype(np.float32, copy=False), out=out[start : start + _BLOCK])
    return out
