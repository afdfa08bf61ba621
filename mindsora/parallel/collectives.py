"""Collectives between the ranks of a group, each with its own backward pass, in graphs and in PyNative.

On Ascend each is the operator of its name. MindSpore's CPU has AllReduce of float16 and float32 alone for a part of the
ranks, so there each is built from it: a gather adds up tensors that are zero outside a rank's own slice. The results are
the same, bit for bit. This is the only module that knows the difference.

In a group of one every collective is the identity. Every rank of a group calls the same collectives in the same order.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class Group(NamedTuple):
    """Ranks that exchange tensors.

    Attributes:
        name: of MindSpore's communication group; "" for a group of one.
        ranks: numbers of its processes, in the order of the slices.
        rank: this process's place in the group, from 0.
    """

    name: str
    ranks: tuple[int, ...]
    rank: int

    @property
    def size(self) -> int:
        return len(self.ranks)


ALONE = Group("", (0,), 0)

_counters: list[Counter] = []


def sent(kind: str, nbytes: int, size: int) -> int:
    """Bytes that a rank sends in one collective, by the ring algorithm.

    Args:
        kind: all_reduce, all_gather, reduce_scatter, all_to_all or broadcast.
        nbytes: of the tensor that the rank puts in.
        size: ranks in the group.
    """
    part = nbytes * (size - 1)
    shares = {"all_reduce": 2 * part // size, "all_gather": part, "broadcast": nbytes if size > 1 else 0}
    return shares.get(kind, part // size)  # of reduce_scatter and all_to_all


@contextlib.contextmanager
def counted() -> Iterator[Counter]:
    """Count the bytes that this rank sends inside the context: kind -> bytes, as `sent` has them.

    In PyNative only: a compiled graph runs its collectives without Python.
    """
    counter = Counter()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)


class _Collective(nn.Cell):
    """One operation without a gradient of its own; the Cells below pair them.

    Operators are attributes: MindSpore 2.10 cannot compile a Python function, such as `ops.concat`, in a backward pass
    of ours where the forward pass calls it too.
    """

    kind = ""

    def __init__(self, group: Group, split_axis: int = 0, concat_axis: int = 0):
        super().__init__()
        self.size, self.rank, self.group_name = group.size, group.rank, group.name
        self.split_axis, self.concat_axis = split_axis, concat_axis
        self.emulated = ms.get_current_device().device_target == "CPU"
        self.split, self.concat = ops.Split(split_axis, group.size), ops.Concat(concat_axis)
        self.rows, self.joined = ops.Split(0, group.size), ops.Concat(0)
        self.cast, self.zeros = ops.Cast(), ops.ZerosLike()
        self.op = None
        if group.size > 1:
            self.op = ops.AllReduce(group=group.name) if self.emulated else self.operator()

    def operator(self):
        return ops.AllReduce(group=self.group_name)

    def __call__(self, x: Tensor) -> Tensor:
        """PyNative calls this; a graph compiles `construct` alone."""
        for counter in _counters:
            counter[self.kind] += sent(self.kind, x.nbytes, self.size)
        return super().__call__(x)

    def sum(self, x: Tensor) -> Tensor:
        """AllReduce on CPU, of any dtype whose values float32 holds: its kernel takes neither bfloat16 nor integers."""
        return self.cast(self.op(self.cast(x, ms.float32)), x.dtype)

    def gathered(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tensors of all ranks, on CPU: a sum of tensors that are zero outside the own part."""
        zeros = self.zeros(x)
        before, after = (zeros,) * self.rank, (zeros,) * (self.size - 1 - self.rank)
        return self.rows(self.sum(self.joined(before + (x,) + after)))


class _AllReduce(_Collective):
    kind = "all_reduce"

    def construct(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        return self.sum(x) if self.emulated else self.op(x)


class _AllGather(_Collective):
    kind = "all_gather"

    def operator(self):
        return ops.AllGather(group=self.group_name)

    def construct(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        return self.concat(self.gathered(x) if self.emulated else self.rows(self.op(x)))


class _ReduceScatter(_Collective):
    kind = "reduce_scatter"

    def operator(self):
        return ops.ReduceScatter(group=self.group_name)

    def construct(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        if self.emulated:
            return self.split(self.sum(x))[self.rank]
        return self.op(self.joined(self.split(x)))


class _AllToAll(_Collective):
    kind = "all_to_all"

    def operator(self):
        return ops.AlltoAll(split_count=self.size, split_dim=0, concat_dim=0, group=self.group_name)

    def construct(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        if not self.emulated:
            return self.concat(self.rows(self.op(self.joined(self.split(x)))))
        parts = ()
        for whole in self.gathered(x):
            parts = parts + (self.split(whole)[self.rank],)
        return self.concat(parts)


class _Slice(nn.Cell):
    """This rank's part of an axis."""

    def __init__(self, group: Group, axis: int):
        super().__init__()
        self.size, self.rank, self.split = group.size, group.rank, ops.Split(axis, group.size)

    def construct(self, x: Tensor) -> Tensor:
        return x if self.size == 1 else self.split(x)[self.rank]


class _Same(nn.Cell):
    def construct(self, x: Tensor) -> Tensor:
        return x


class _Pair(nn.Cell):
    """A collective whose gradient is another: forward(x), backward(gradient)."""

    def __init__(self, forward: nn.Cell, backward: nn.Cell):
        super().__init__()
        self.forward, self.backward = forward, backward

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        return (self.backward(gradient),)


class AllReduce(_Pair):
    """The sum over the ranks. Backward: the sum of the gradients, where every rank goes on by itself."""

    def __init__(self, group: Group):
        super().__init__(_AllReduce(group), _AllReduce(group))


class Copy(_Pair):
    """The same tensor. Backward: the sum of the gradients. It opens a region whose ranks compute different parts."""

    def __init__(self, group: Group):
        super().__init__(_Same(), _AllReduce(group))


class Reduce(_Pair):
    """The sum over the ranks. Backward: the same gradient. It closes the region that `Copy` opens."""

    def __init__(self, group: Group):
        super().__init__(_AllReduce(group), _Same())


class AllGather(_Pair):
    """The slices of all ranks, joined along an axis. Backward: reduce-scatter, where every rank goes on by itself."""

    def __init__(self, group: Group, axis: int = 0):
        super().__init__(_AllGather(group, concat_axis=axis), _ReduceScatter(group, split_axis=axis))


class Gather(_Pair):
    """The slices of all ranks, joined. Backward: the own slice, where every rank goes on with the same computation."""

    def __init__(self, group: Group, axis: int = 0):
        super().__init__(_AllGather(group, concat_axis=axis), _Slice(group, axis))


class ReduceScatter(_Pair):
    """The own slice of the sum over the ranks. Backward: all-gather."""

    def __init__(self, group: Group, axis: int = 0):
        super().__init__(_ReduceScatter(group, split_axis=axis), _AllGather(group, concat_axis=axis))


class Scatter(_Pair):
    """The own slice of a tensor that all ranks have. Backward: all-gather."""

    def __init__(self, group: Group, axis: int = 0):
        super().__init__(_Slice(group, axis), _AllGather(group, concat_axis=axis))


class AllToAll(_Pair):
    """Slice i of axis `split_axis` goes to rank i; what comes in is joined along `concat_axis`. Backward: the reverse."""

    def __init__(self, group: Group, split_axis: int, concat_axis: int):
        super().__init__(_AllToAll(group, split_axis, concat_axis), _AllToAll(group, concat_axis, split_axis))


def broadcast(array: np.ndarray, group: Group) -> np.ndarray:
    """The first rank's array on every rank, bit for bit. The others give an array of the same shape and dtype."""
    for counter in _counters:
        counter["broadcast"] += sent("broadcast", array.nbytes, group.size)
    data = array if group.rank == 0 else np.zeros_like(array)
    return _sum_of_bytes(data, group)


def all_rows(array: np.ndarray, group: Group) -> np.ndarray:
    """The arrays of all ranks, bit for bit: (...) -> (size, ...). Every rank's has the same shape and dtype."""
    rows = np.zeros((group.size, *array.shape), array.dtype)
    rows[group.rank] = array
    return _sum_of_bytes(rows, group)


def _sum_of_bytes(array: np.ndarray, group: Group) -> np.ndarray:
    """Join arrays of which one rank has a byte and the others 0."""
    if group.size == 1:
        return array
    # Every device reduces float16, in which 0 to 255 are exact.
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).astype(np.float16)
    total = ops.AllReduce(group=group.name)(Tensor(data)).asnumpy()
    return total.astype(np.uint8).view(array.dtype).reshape(array.shape)
