"""Operations whose MindSpore form depends on the device.

On Ascend the forms of `mint` are aclnn kernels, or views; those of `ops` go through CANN's operator
compiler, which compiles each at its first use. CPU has kernels for the forms of `ops` alone.
"""

import mindspore as ms
from mindspore import Tensor, mint, ops
from mindspore.ops.auto_generate import SliceExt

_slice = SliceExt()


@ops.constexpr
def _aclnn() -> bool:
    return ms.get_context("device_target") == "Ascend"


def chunk(x: Tensor, parts: int, axis: int) -> tuple[Tensor, ...]:
    """Equal parts along an axis."""
    return mint.chunk(x, parts, axis) if _aclnn() else ops.chunk(x, parts, axis)


def stack(tensors: tuple[Tensor, ...], axis: int = 0) -> Tensor:
    return mint.stack(tensors, axis) if _aclnn() else ops.stack(tensors, axis)


def narrow(x: Tensor, axis: int, start: int, length: int) -> Tensor:
    """`length` entries of an axis from `start` on, copied."""
    # Not mint.narrow, a view: the frames that a decoder remembers would keep whole activations, 25 GiB in v1.5.
    return _slice(x, axis, start, start + length, 1) if _aclnn() else x.narrow(axis, start, length)


def cut(x: Tensor, axis: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Entries start to stop of an axis, as a Python slice counts them."""
    size = x.shape[axis]
    first = max(size + start, 0) if start < 0 else start
    last = size if stop is None else size + stop if stop < 0 else min(stop, size)
    return narrow(x, axis, first, last - first)


def take(x: Tensor, ids: Tensor, axis: int = 0) -> Tensor:
    """The entries of an axis at ids (M,) int32."""
    return _index_select(x, ids, axis) if _aclnn() else _gather(x, ids, axis)


def take_here():
    """`take` for the device that is set now, for a Cell's own bprop: MindSpore 2.10 loses a graph with a branch there."""
    return _index_select if ms.get_context("device_target") == "Ascend" else _gather


def _index_select(x: Tensor, ids: Tensor, axis: int) -> Tensor:
    return mint.index_select(x, axis, ids)


def _gather(x: Tensor, ids: Tensor, axis: int) -> Tensor:
    return ops.gather(x, ids, axis)


def embedding(table: Tensor, ids: Tensor) -> Tensor:
    """The rows of a learned table (N, C) at ids (...) int32: (..., C)."""
    return mint.nn.functional.embedding(ids, table) if _aclnn() else ops.gather(table, ids, 0)


def mean(x: Tensor, axis: int, keep: bool = False) -> Tensor:
    """The mean over an axis."""
    return mint.mean(x, axis, keep) if _aclnn() else x.mean(axis, keep)


def total_so_far(x: Tensor) -> Tensor:
    """Cumulative sum of a row of int32 numbers, (N,) int64."""
    return mint.cumsum(x, 0, dtype=ms.int64) if _aclnn() else x.cumsum(0).astype(ms.int64)


def order(x: Tensor, descending: bool = False) -> Tensor:
    """The places (..., N) that sort the last axis of x, float32."""
    return mint.argsort(x, -1, descending).astype(ms.int32) if _aclnn() else ops.argsort(x, -1, descending)


def finite(x: Tensor, largest: float) -> Tensor:
    """NaN -> 0, and whatever is larger than `largest` in magnitude -> +-largest."""
    if _aclnn():
        return mint.nan_to_num(x, 0.0, largest, -largest)
    return ops.clamp(ops.where(ops.isnan(x), ops.zeros_like(x), x), -largest, largest)
