"""Compare the tensors of two checkpoints of any formats."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mindsora.ckpt_convert.checkpoint import Checkpoint
from mindsora.ckpt_convert.entry import Entry
from mindsora.ckpt_convert.recognise import build_cell, fit, recognise
from mindsora.errors import InputError


@dataclass(frozen=True)
class Difference:
    """One tensor that is not the same in both."""

    name: str
    what: str


def compare(a: Checkpoint, b: Checkpoint) -> tuple[int, list[Difference]]:
    """Number of tensors that are the same, bit for bit, and the differences of the others.

    For two checkpoints of one model it compares the weights under upstream's names; constants of the architecture are
    checked, but may be missing. For other checkpoints it compares all tensors under their own names.
    """
    left, right = _tensors(a, b)
    same, differences = 0, []
    for name in left.keys() | right.keys():
        if name not in left or name not in right:
            differences.append(Difference(name, f"only in {a.path if name in left else b.path}"))
        elif what := difference(left[name], right[name]):
            differences.append(Difference(name, what))
        else:
            same += 1
    return same, sorted(differences, key=lambda difference: difference.name)


def _tensors(a: Checkpoint, b: Checkpoint) -> tuple[Mapping[str, Entry], Mapping[str, Entry]]:
    try:
        recognised = recognise(a), recognise(b)
    except InputError:  # not a model of the Open-Sora Plan line
        return a, b
    if recognised[0].model != recognised[1].model:
        return a, b
    first, second = (
        fit(it.table, build_cell(it.model, it.config), it.tensors, str(checkpoint.path))
        for checkpoint, it in zip((a, b), recognised)
    )
    return first, second


def difference(a: Entry, b: Entry) -> str:
    """Describe how two tensors differ; "" if they are the same, bit for bit."""
    if a.shape != b.shape:
        return f"shape {a.shape} against {b.shape}"
    largest, count, bits = 0.0, 0, 0
    # strict runs both iterators to their end, where they compare their checksums.
    for x, y in zip(a.slices(), b.slices(), strict=True) if a.dtype == b.dtype else _aligned(a, b):
        if a.dtype == b.dtype and np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            continue
        bits += a.dtype == b.dtype
        if a.dtype != b.dtype:
            x, y = x.astype(np.float64), y.astype(np.float64)
        differs = (x != y) & ~(np.isnan(x) & np.isnan(y))
        count += int(differs.sum())
        with np.errstate(invalid="ignore"):  # gaps to infinite values and NaN
            gap = np.abs(x[differs].astype(np.float64) - y[differs].astype(np.float64))
        largest = max(largest, float(np.max(np.nan_to_num(gap, nan=np.inf), initial=0.0)))
    if a.dtype != b.dtype:
        return f"{a.dtype} against {b.dtype}; {count:,} of {a.size:,} values differ, by at most {largest:.3g}"
    if count:
        return f"{count:,} of {a.size:,} values differ, by at most {largest:.3g}"
    return "the values are equal, their bits are not (signed zeros, NaN)" if bits else ""


def _aligned(a: Entry, b: Entry):
    """Pieces of equal length of two tensors of different element size."""
    a.check()
    b.check()
    step = 2**20
    for start in range(0, a.size, step):
        stop = min(start + step, a.size)
        yield a.read(start, stop), b.read(start, stop)
