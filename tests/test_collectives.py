"""Every collective forward and backward, in PyNative and in a graph, against NumPy on the arrays of all ranks."""

import numpy as np
import pytest
from ranks import run_ranks

from mindsora.errors import InputError
from mindsora.parallel.collectives import sent
from mindsora.parallel.layout import Layout

SHAPE = (4, 8, 12)  # divisible by 2 and 4 along every axis
WEIGHT = 5
CASES = {  # name -> (axes of the collective, result's shape from SHAPE for n ranks)
    "AllReduce": ((), lambda n: SHAPE),
    "Copy": ((), lambda n: SHAPE),
    "Reduce": ((), lambda n: SHAPE),
    "AllGather": ((1,), lambda n: (4, 8 * n, 12)),
    "Gather": ((2,), lambda n: (4, 8, 12 * n)),
    "ReduceScatter": ((1,), lambda n: (4, 8 // n, 12)),
    "Scatter": ((2,), lambda n: (4, 8, 12 // n)),
    "AllToAll": ((1, 0), lambda n: (4 * n, 8 // n, 12)),
}


def values(name: str, shape: tuple[int, ...], place: int) -> np.ndarray:
    rng = np.random.default_rng((sorted(CASES).index(name), len(shape), shape[0], place))
    return rng.integers(-WEIGHT, WEIGHT + 1, shape).astype(np.float32)  # whole numbers: every sum is exact


def job(mesh) -> dict[str, np.ndarray]:
    """Result, gradient and bytes of every collective along the axis that has several ranks."""
    import mindspore as ms

    from mindsora.parallel import collectives

    group, arrays = mesh.world, {}
    for name, (axes, result) in CASES.items():
        cell = getattr(collectives, name)(group, *axes)
        x = ms.Tensor(values(name, SHAPE, group.rank))
        weight = ms.Tensor(values(name, result(group.size), group.rank + 100))
        backward = ms.grad(Weighted(cell, weight))
        with collectives.counted() as count:
            arrays[f"{name}.pynative"] = cell(x).asnumpy()
        arrays[f"{name}.sent"] = np.array(sum(count.values()))
        with collectives.counted() as count:
            arrays[f"{name}.pynative.gradient"] = backward(x).asnumpy()
        arrays[f"{name}.sent_both"] = np.array(sum(count.values()))
        arrays[f"{name}.graph"] = ms.jit(cell.construct)(x).asnumpy()
        arrays[f"{name}.graph.gradient"] = ms.jit(backward)(x).asnumpy()
        half = ms.Tensor(values(name, SHAPE, group.rank)).astype(ms.bfloat16)
        arrays[f"{name}.half"] = cell(half).astype(ms.float32).asnumpy()
    given = np.arange(6, dtype=np.int64).reshape(2, 3) << 40
    arrays["broadcast"] = collectives.broadcast(given if group.rank == 0 else np.zeros_like(given), group)
    return arrays


def Weighted(cell, weight):
    from mindspore import nn

    class Sum(nn.Cell):
        def __init__(self):
            super().__init__()
            self.cell, self.weight = cell, weight

        def construct(self, x):
            return (self.cell(x) * self.weight).sum()

    return Sum()


def expected(name: str, parts: list[np.ndarray]) -> list[np.ndarray]:
    """What each rank has after a collective on these arrays."""
    n, axes = len(parts), CASES[name][0]
    total = sum(parts)
    if name in ("AllReduce", "Reduce"):
        return [total] * n
    if name == "Copy":
        return parts
    if name in ("AllGather", "Gather"):
        return [np.concatenate(parts, axes[0])] * n
    if name == "ReduceScatter":
        return np.split(total, n, axes[0])
    if name == "Scatter":
        return [np.split(part, n, axes[0])[rank] for rank, part in enumerate(parts)]
    slices = [np.split(part, n, axes[0]) for part in parts]
    return [np.concatenate([row[rank] for row in slices], axes[1]) for rank in range(n)]


def gradients(name: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """The gradient of sum(weight * collective(x)) on each rank; for `Gather` and `Reduce` the rank's own weight counts."""
    n, axes = len(weights), CASES[name][0]
    total = sum(weights)
    if name in ("AllReduce", "Copy"):
        return [total] * n
    if name == "Reduce":
        return weights
    if name == "AllGather":
        return np.split(total, n, axes[0])
    if name == "Gather":
        return [np.split(weight, n, axes[0])[rank] for rank, weight in enumerate(weights)]
    if name in ("ReduceScatter", "Scatter"):
        return [np.concatenate(weights, axes[0])] * n
    slices = [np.split(weight, n, axes[1]) for weight in weights]
    return [np.concatenate([row[rank] for row in slices], axes[0]) for rank in range(n)]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    return run_ranks("test_collectives:job", f"dp={request.param}", tmp_path_factory.mktemp("ranks"))


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(ranks, name):
    n = len(ranks)
    inputs = [values(name, SHAPE, rank) for rank in range(n)]
    weights = [values(name, CASES[name][1](n), rank + 100) for rank in range(n)]
    for rank, (result, gradient) in enumerate(zip(expected(name, inputs), gradients(name, weights))):
        for mode in ("pynative", "graph"):
            np.testing.assert_array_equal(ranks[rank][f"{name}.{mode}"], result)
            np.testing.assert_array_equal(ranks[rank][f"{name}.{mode}.gradient"], gradient)
        np.testing.assert_array_equal(ranks[rank][f"{name}.half"], result)  # small whole numbers are exact in bfloat16


@pytest.mark.full
def test_counted_bytes(ranks):
    """The ring's bytes of the forward pass, then of both passes, of 4 x 8 x 12 float32 values."""
    n, nbytes = len(ranks), 4 * 8 * 12 * 4
    reduce, gather, scatter = 2 * nbytes * (n - 1) // n, nbytes * (n - 1), nbytes * (n - 1) // n
    assert {name: int(ranks[0][f"{name}.sent"]) for name in CASES} == {
        "AllReduce": reduce,
        "Copy": 0,
        "Reduce": reduce,
        "AllGather": gather,
        "Gather": gather,
        "ReduceScatter": scatter,
        "Scatter": 0,
        "AllToAll": scatter,
    }
    # A gathered tensor is n times as large, and its gradient travels back as a reduce-scatter.
    assert int(ranks[0]["AllGather.sent_both"]) == 2 * gather
    assert int(ranks[0]["Copy.sent_both"]) == reduce
    assert int(ranks[0]["ReduceScatter.sent_both"]) == 2 * scatter


@pytest.mark.full
def test_broadcast_keeps_every_bit(ranks):
    for rank in ranks:
        np.testing.assert_array_equal(rank["broadcast"], np.arange(6, dtype=np.int64).reshape(2, 3) << 40)


def test_sent():
    """Ring algorithms: an all-reduce is a reduce-scatter and an all-gather of the parts."""
    assert sent("all_reduce", 1000, 4) == 1500
    assert sent("reduce_scatter", 1000, 4) + sent("all_gather", 250, 4) == 1500
    assert sent("all_to_all", 1000, 4) == 750
    assert {kind: sent(kind, 1000, 1) for kind in ("all_reduce", "all_gather", "broadcast")} == dict.fromkeys(
        ("all_reduce", "all_gather", "broadcast"), 0
    )


def test_layout():
    layout = Layout.parse("dp=2,cp=2,tp=2")
    assert (layout, layout.size, str(layout)) == (Layout(2, 2, 2), 8, "dp=2,cp=2,tp=2")
    assert layout.ranks(("tp",), 5) == (4, 5)  # the tensor-parallel ranks are neighbours
    assert layout.ranks(("cp",), 5) == (5, 7)
    assert layout.ranks(("dp",), 5) == (1, 5)
    assert layout.ranks(("dp", "cp"), 5) == (1, 3, 5, 7)
    assert Layout.parse("") == Layout()


@pytest.mark.parametrize("text", ["dp", "dp=0", "dp=x", "np=2", "dp=2,dp=2", "cfg=3", "dp=-1", "dp=²"])
def test_wrong_layouts(text):
    with pytest.raises(InputError, match="parallel"):
        Layout.parse(text)
