"""Buckets: the tensors of all weights joined in float32, so that one collective moves many."""

from math import prod

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.parallel.collectives import AllGather, AllReduce, Group, ReduceScatter

BYTES = 2**26  # of a bucket; larger ones gain no speed and hold more memory, a larger tensor has a bucket of its own


class Buckets(nn.Cell):
    """Sum tensors over the ranks, cut them into a part per rank, and join these again.

    A tensor of n values has parts of ceil(n / size) values, with zeros behind the last. Row r of a bucket (size, M) has
    part r of each of its tensors, so that a reduce-scatter of rows gives a rank its own parts.

    Args:
        shapes: of the tensors, whose order every method keeps.
    """

    def __init__(self, group: Group, shapes: tuple[tuple[int, ...], ...], limit: int = BYTES):
        super().__init__()
        self.size, self.rank, self.shapes = group.size, group.rank, shapes
        self.counts = tuple(prod(shape) for shape in shapes)
        self.parts = tuple(-(-count // group.size) for count in self.counts)
        self.bounds = _bounds(tuple(4 * group.size * part for part in self.parts), limit)
        self.all_reduce, self.reduce_scatter = AllReduce(group), ReduceScatter(group, 0)
        self.all_gather = AllGather(group, 0)

    def summed(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tensors of every rank -> their sums over the ranks, float32."""
        out, before = (), None
        for first, last in self.bounds:
            bucket = self.all_reduce(self._after(self._bucket(tensors, first, last), before))
            out, before = out + self._whole(bucket, first, last), bucket
        return out

    def scattered(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tensors of every rank -> the own part of their sums, each (part,) float32."""
        out, before = (), None
        for first, last in self.bounds:
            row = self.reduce_scatter(self._after(self._bucket(tensors, first, last), before)).reshape(-1)
            start = 0
            for i in range(first, last):
                out = out + (row[start : start + self.parts[i]],)
                start += self.parts[i]
            before = row
        return out

    def gathered(self, parts: tuple[Tensor, ...], after: Tensor) -> tuple[Tensor, ...]:
        """The parts of every rank, each (part,) -> whole tensors.

        after: the exchange starts when this tensor is there.
        """
        out, before = (), after
        for first, last in self.bounds:
            row = ops.concat([parts[i] for i in range(first, last)], 0).reshape(1, -1)
            bucket = self.all_gather(self._after(row, before))
            out, before = out + self._whole(bucket, first, last), bucket
        return out

    def own(self, whole: np.ndarray, i: int) -> np.ndarray:
        """The own part of tensor i, without an exchange."""
        part = self.parts[i]
        flat = whole.reshape(-1)[self.rank * part : (self.rank + 1) * part]
        return np.pad(flat, (0, part - len(flat)))

    def _bucket(self, tensors, first: int, last: int) -> Tensor:
        rows = []
        for i in range(first, last):
            flat = tensors[i].reshape(-1).astype(ms.float32)
            missing = self.size * self.parts[i] - self.counts[i]
            if missing:
                flat = ops.concat((flat, ops.zeros((missing,), ms.float32)), 0)
            rows.append(flat.reshape(self.size, self.parts[i]))
        return ops.concat(rows, 1)

    def _whole(self, bucket: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        out, start = (), 0
        for i in range(first, last):
            rows = bucket[:, start : start + self.parts[i]]
            out = out + (rows.reshape(-1)[: self.counts[i]].reshape(self.shapes[i]),)
            start += self.parts[i]
        return out

    def _after(self, x: Tensor, before: Tensor | None) -> Tensor:
        """x, once `before` is there: every rank must start the buckets in the same order."""
        return x if before is None else ops.depend(x, before)


def _bounds(sizes: tuple[int, ...], limit: int) -> tuple[tuple[int, int], ...]:
    """Cut a list of sizes into runs (first, behind the last) of at most `limit` bytes each, or of one item."""
    bounds, first, total = [], 0, 0
    for i, size in enumerate(sizes):
        if total and total + size > limit:
            bounds.append((first, i))
            first, total = i, 0
        total += size
    return (*bounds, (first, len(sizes))) if sizes else ()
