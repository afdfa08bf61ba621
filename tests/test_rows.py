"""Hand-written gradients of `mindsora.kernels.rows` equal autodiff's gradients of the plain formulas."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindsora.kernels import rows
from mindsora.kernels.rows import NormaliseRows, PerToken, repeated

RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("centre", [False, True])
def test_normalise_rows(centre, run):
    x, g = (Tensor(RANDOM.randn(5, 12).astype(np.float32) * 3 + 1) for _ in range(2))
    cell = NormaliseRows(1e-6, centre)

    def plain(x):
        h = x - x.mean(-1, keep_dims=True) if centre else x
        return (g * h / ops.sqrt((h * h).mean(-1, keep_dims=True) + 1e-6)).sum()

    def ours(x):
        return (g * cell(x)[0]).sum()

    expected = ms.value_and_grad(plain)(x)
    for _ in range(3):
        actual = run(ms.value_and_grad(ours), x)
        for a, b in zip(actual, expected):
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), rtol=1e-5, atol=1e-5)


def test_per_token(run):
    row, g = Tensor(RANDOM.randn(2, 1, 6).astype(np.float32)), Tensor(RANDOM.randn(2, 7, 6).astype(np.float32))
    cell = PerToken()

    def ours(row):
        return (cell(row, 7) * g).sum()

    for _ in range(3):
        value, gradient = run(ms.value_and_grad(ours), row)
        np.testing.assert_allclose(value.asnumpy(), (row.asnumpy() * g.asnumpy()).sum(), rtol=1e-5)
        np.testing.assert_allclose(gradient.asnumpy(), g.asnumpy().sum(1, keepdims=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ascend", [False, True])
def test_repeated(ascend, run, monkeypatch):
    """The Ascend form, which repeats nothing, and the CPU form have equal values and gradients."""
    monkeypatch.setattr(rows, "on_ascend", lambda: ascend)
    x, g = (Tensor(RANDOM.randn(2, 5, 6).astype(np.float32)) for _ in range(2))
    parameter = Tensor(RANDOM.randn(6).astype(np.float32))
    assert repeated(parameter, x).shape == ((6,) if ascend else (2, 5, 6))

    def ours(x, parameter):
        return ((x * repeated(parameter, x) + repeated(parameter, x)) * g).sum()

    for _ in range(3):
        value, (by_x, by_parameter) = run(ms.value_and_grad(ours, (0, 1)), x, parameter)
        expected = ((x.asnumpy() + 1) * parameter.asnumpy() * g.asnumpy()).sum()
        np.testing.assert_allclose(value.asnumpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(by_x.asnumpy(), parameter.asnumpy() * g.asnumpy(), rtol=1e-6)
        expected = ((x.asnumpy() + 1) * g.asnumpy()).sum((0, 1))
        np.testing.assert_allclose(by_parameter.asnumpy(), expected, rtol=1e-5, atol=1e-6)
