"""Angles of the rotary position embedding over (t, y, x), one slice of the head's channels per axis.

`mindsora.kernels.qk_norm_rope` applies the rotation. Rotary embedding: Su et al. 2021 (RoFormer); the axis slices are
those of Open-Sora Plan v1.3 and v1.5.
"""

from functools import lru_cache

import mindspore as ms
import ml_dtypes
import numpy as np
from mindspore import Tensor, ops

from mindsora.parallel.shards import Place

THETA = 10000.0
_NUMPY = {ms.float32: np.float32, ms.float16: np.float16, ms.bfloat16: ml_dtypes.bfloat16}


def split_v1_5(head_dim: int) -> tuple[int, int, int]:
    """Channels per axis (t, y, x) in v1.5: a quarter, three eighths, three eighths. head_dim is a multiple of 16."""
    return head_dim // 4, 3 * head_dim // 8, 3 * head_dim // 8


def split_v1_3(head_dim: int) -> tuple[int, int, int]:
    """Channels per axis (t, y, x) in v1.3: a third each. head_dim is a multiple of 6."""
    return head_dim // 3, head_dim // 3, head_dim // 3


def rope_table(
    grid: tuple[int, int, int],
    split: tuple[int, int, int],
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    dtype: np.dtype = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin for every token of a (T, h, w) grid, in token order (t, y, x).

    Args:
        grid: tokens along t, y, x.
        split: channels per axis, sum = head_dim, each even.
        scale: positions along an axis are its indices divided by this (upstream's interpolation_scale).
        dtype: angles are rounded to it before cos and sin, as v1.3 does in half precision; v1.5 uses float32.

    Returns:
        cos, sin, each (T*h*w, head_dim). The sine of the first half of every slice is negated, so that the rotation is
        x * cos + x[swapped] * sin, where `swapped` exchanges the halves of every slice.
    """
    cos, sin = [], []
    for axis, width in enumerate(split):
        inverse = 1.0 / THETA ** (np.arange(0, width, 2, dtype=np.float32) / width)
        position = np.arange(grid[axis], dtype=np.float32) / np.float32(scale[axis])
        angle = np.outer(position, inverse.astype(np.float32)).astype(dtype).astype(np.float32)  # (size, width/2)
        shape = [1, 1, 1, width]
        shape[axis] = grid[axis]
        cos.append(np.broadcast_to(np.concatenate([np.cos(angle)] * 2, -1).reshape(shape), (*grid, width)))
        sin.append(np.broadcast_to(np.concatenate([-np.sin(angle), np.sin(angle)], -1).reshape(shape), (*grid, width)))
    return tuple(np.concatenate(part, -1).reshape(-1, sum(split)).astype(dtype) for part in (cos, sin))


@lru_cache(maxsize=64)
def _tensors(grid, split, scale, dtype, place):
    tables = rope_table(grid, split, scale, _NUMPY[dtype])
    if place is not None:
        rows = Place(*place).rows(len(tables[0])).clip(0)  # padding takes the first token's angles: nothing reads it
        tables = tuple(table[rows] for table in tables)
    return tuple(Tensor(table[None, :, None]) for table in tables)  # (1, N, 1, D)


@ops.constexpr
def rope_tensors(
    grid: tuple[int, int, int],
    split: tuple[int, int, int],
    scale: tuple[float, float, float],
    dtype=ms.float32,
    place: Place | None = None,
):
    """`rope_table` as two Tensors (1, N, 1, D), computed at trace time and cached per grid.

    place: only the rows of a rank, (1, rows, 1, D).
    """
    return _tensors(grid, split, scale, dtype, place)
