"""Convolution on CPU: plain form and compiled operator against float64 sums.

Relative to the largest result, float32 sums of at most 27 * 40 products are off by less than 2e-6.
"""

import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindsora.kernels.conv3d import conv3d
from mindsora.kernels.conv3d.conv3d import Conv3dCPU, Conv3dReference

CASES = {  # x, weight, stride, zeros before, zeros after
    "causal": ((2, 5, 9, 11, 5), (7, 5, 3, 3, 3), (1, 1, 1), 1, 1),
    "wide": ((1, 3, 4, 21, 40), (70, 40, 3, 3, 3), (1, 1, 1), 1, 1),
    "halving": ((2, 5, 8, 12, 6), (6, 6, 3, 3, 3), (2, 2, 2), 0, 1),
    "halving_space": ((1, 3, 8, 10, 3), (4, 3, 1, 3, 3), (1, 2, 2), 0, 1),
    "odd_strides": ((1, 6, 7, 9, 2), (3, 2, 3, 3, 3), (2, 2, 2), 1, 1),
    "flat": ((2, 2, 6, 6, 4), (17, 4, 1, 3, 3), (1, 1, 1), 1, 1),
}


def taps(x, weight, stride, before, after):
    """Every tap of the kernel: its index, and the zero-padded input (float64) as that tap sees it."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (before, after), (before, after), (0, 0)))
    size = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:4], weight.shape[2:], stride)]
    for tap in itertools.product(*map(range, weight.shape[2:])):
        seen = (slice(None), *(slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(tap, size, stride)))
        yield (slice(None), slice(None), *tap), seen, padded


def oracle(x, weight, bias, *geometry):
    """The convolution in float64, tap by tap."""
    return bias + sum(padded[seen] @ weight[tap].T for tap, seen, padded in taps(x, weight, *geometry))


def oracle_gradients(x, weight, direction, stride, before, after):
    """Gradients of (convolution * direction).sum() by x, weight and bias, in float64."""
    dx = np.zeros((*x.shape[:2], x.shape[2] + before + after, x.shape[3] + before + after, x.shape[4]))
    dw = np.zeros(weight.shape)
    for tap, seen, padded in taps(x, weight, stride, before, after):
        dx[seen] += direction @ weight[tap]
        dw[tap] = np.tensordot(direction, padded[seen], ((0, 1, 2, 3), (0, 1, 2, 3)))
    return dx[:, :, before : before + x.shape[2], before : before + x.shape[3]], dw, direction.sum((0, 1, 2, 3))


class Weighted(nn.Cell):
    def __init__(self, conv, direction):
        super().__init__()
        self.conv = conv
        self.direction = direction

    def construct(self, x, weight, bias):
        return (self.conv(x, weight, bias) * self.direction).sum()


@pytest.mark.parametrize("form", ["plain", "plain in blocks", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(run, monkeypatch, case, form):
    shape, weight_shape, *geometry = CASES[case]
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s, np.float32) for s in (shape, weight_shape, weight_shape[:1]))
    y = oracle(x, weight, bias, *geometry)
    direction = rng.standard_normal(y.shape, np.float32)
    gradients = oracle_gradients(x, weight, direction.astype(np.float64), *geometry)
    if form == "plain in blocks":
        monkeypatch.setattr(conv3d, "SCRATCH", 4 * 9 * shape[-1] * y.shape[3] * shape[0] * 2)  # two rows at a time
    conv = (Conv3dCPU if form == "compiled" else Conv3dReference)(*geometry)
    arguments = [Tensor(array) for array in (x, weight, bias)]
    assert_near(run(conv, *arguments), y)
    gradient = ms.grad(Weighted(conv, Tensor(direction)), (0, 1, 2))
    for _ in range(3):  # wrong gradients under jit have shown from the second call on
        for actual, expected in zip(run(gradient, *arguments), gradients):
            assert_near(actual, expected)


def assert_near(actual, expected):
    np.testing.assert_allclose(actual.asnumpy(), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_two_geometries_in_one_graph(run):
    """MindSpore keeps one shape inference per operator name: it must not remember another layer's stride."""
    halve, keep = Conv3dCPU((2, 2, 2), 0, 1), Conv3dCPU((1, 1, 1), 1, 1)
    rng = np.random.default_rng(1)
    x, weight, bias = (Tensor(rng.standard_normal(s, np.float32)) for s in ((1, 5, 8, 8, 3), (3, 3, 3, 3, 3), (3,)))

    def both(x, weight, bias):
        return keep(x, weight, bias), halve(x, weight, bias)

    kept, halved = run(both, x, weight, bias)
    assert kept.shape == (1, 3, 8, 8, 3) and halved.shape == (1, 2, 4, 4, 3)


def test_threads_do_not_change_a_bit(monkeypatch):
    rng = np.random.default_rng(2)
    shapes = (2, 6, 32, 32, 32), (32, 32, 3, 3, 3), (32,)
    x, weight, bias = (Tensor(rng.standard_normal(shape, np.float32)) for shape in shapes)
    gradient = ms.value_and_grad(Weighted(Conv3dCPU((1, 1, 1), 1, 1), Tensor(1.0)), (0, 1))
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        value, (dx, dw) = gradient(x, weight, bias)
        results.append([value.asnumpy(), dx.asnumpy(), dw.asnumpy()])
    for one, three in zip(*results):
        np.testing.assert_array_equal(one, three)


def test_what_was_chosen_is_what_runs(monkeypatch):
    for kind, cell in (("cpu", Conv3dCPU), ("reference", Conv3dReference)):
        monkeypatch.setenv("MINDSORA_KERNELS", f"conv3d={kind}")
        assert isinstance(conv3d.conv3d((1, 1, 1), 1, 1), cell)
