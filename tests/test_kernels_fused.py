"""Norms, rotation of heads, gated residual, GELU, Haar: definition and compiled operator against float64 NumPy.

Tolerances are relative to the largest number of a result, for float32 sums of at most a few hundred products.
"""

import mindspore as ms
import numpy as np
import pytest
from kernel_oracles import ada_norm_modulate as ada_oracle
from kernel_oracles import gelu_tanh as gelu_oracle
from kernel_oracles import members
from kernel_oracles import qk_norm_rope as rope_oracle
from kernel_oracles import row_norm as row_oracle
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.kernels.ada_norm_modulate import ada_norm_modulate, gated_residual
from mindsora.kernels.gelu import gelu_tanh
from mindsora.kernels.haar import join, split
from mindsora.kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_grouped
from mindsora.kernels.row_norm import row_norm
from mindsora.nn.rope import rope_tensors, split_v1_3, split_v1_5

TOLERANCE = 2e-6
GRID = (2, 3, 7)  # 42 tokens: more than one item of work
# norm, split, head_dim, whether there are weights; v1.5, v1.3, and what neither has
ROPES = {
    "v1.5": ("rms", split_v1_5(48), 48, True),
    "v1.3": ("none", split_v1_3(96), 96, False),
    "layer": ("layer", split_v1_5(128), 128, True),
    "text of v1.5": ("rms", None, 32, True),
}


@pytest.fixture(params=["reference", "cpu"])
def kind(request, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", request.param)
    return request.param


class Weighted(nn.Cell):
    """sum(function(*inputs) * grad), and the result."""

    def __init__(self, function, grad):
        super().__init__()
        self.function, self.grad = function, Tensor(grad)

    def construct(self, *inputs):
        y = self.function(*inputs)
        return (y * self.grad).astype(ms.float32).sum(), y


def check(run, function, inputs, grad, result, gradients, tolerance=TOLERANCE):
    """Values and gradients of `function`, over several calls of one compiled function."""
    derived = ms.grad(Weighted(function, grad), tuple(range(len(inputs))), has_aux=True)
    derived = ms.jit(derived) if run.__name__ == "jitted" else derived
    for _ in range(2):  # wrong gradients under jit have shown from the second call on
        actual_gradients, (actual,) = derived(*map(Tensor, inputs))
        if len(inputs) == 1:  # MindSpore gives the gradient by one input without a tuple
            actual_gradients = (actual_gradients,)
        for a, b in zip((actual, *actual_gradients), (result, *gradients), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a.asnumpy(), b, rtol=0, atol=tolerance * np.abs(b).max())


def draw(seed, *shapes, dtype=np.float32):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


class Rope(nn.Cell):
    def __init__(self, name):
        super().__init__()
        self.norm, split, _, _ = ROPES[name]
        self.split = split or (0, 0, 0)
        self.rope = rope_tensors(GRID, split, (1.0, 1.0, 1.0)) if split else None

    def construct(self, x, weight=None, bias=None):
        return qk_norm_rope(x, weight, bias, self.rope, norm=self.norm, split=self.split, eps=1e-6)


class RopeGrouped(Rope):
    def __init__(self, name, n, group):
        super().__init__(name)
        self.n, self.group = n, group

    def construct(self, x, text, weight=None, bias=None, text_weight=None, text_bias=None):
        return qk_norm_rope_grouped(
            x,
            weight,
            bias,
            self.rope,
            text,
            text_weight,
            text_bias,
            norm=self.norm,
            split=self.split,
            eps=1e-6,
            sparse_n=self.n,
            group=self.group,
        )


@pytest.mark.parametrize("name", ROPES)
def test_norm_and_rotation(name, kind, run):
    norm, split, dim, learned = ROPES[name]
    x, grad, weight, bias = draw(1, (2, 42, 3, dim), (2, 42, 3, dim), (dim,), (dim,))
    wide = [a.astype(np.float64) for a in ((x, weight, bias) if learned else (x, np.ones(dim), np.zeros(dim)))]
    grid = GRID if split else None
    result = rope_oracle(*wide, norm, grid, split)
    gradients = rope_oracle(*wide, norm, grid, split, grad=grad.astype(np.float64))
    inputs = (x, weight, bias) if learned else (x,)
    check(run, Rope(name), inputs, grad, result, gradients[: len(inputs)])


@pytest.mark.parametrize("name, n, group", [("v1.5", 4, True), ("v1.3", 4, False), ("layer", 1, False)])
def test_stored_as_sub_sequences_with_text_behind(name, n, group, kind, run):
    norm, split, dim, learned = ROPES[name]
    tokens, rows = 42, {1: 42, 4: 12}[n]
    x, text, grad, *weights = draw(2, (2, tokens, 3, dim), (2, 5, 3, dim), (2, n, rows + 5, 3, dim), *[(dim,)] * 4)
    visual_weights, text_weights = (weights[:2], weights[2:]) if learned else ([np.ones(dim), np.zeros(dim)],) * 2
    wide = [[a.astype(np.float64) for a in part] for part in ((x, *visual_weights), (text, *text_weights))]
    visual, words = rope_oracle(*wide[0], norm, GRID, split), rope_oracle(*wide[1], norm, None, None)
    result = np.zeros(grad.shape)
    result[:, :, rows:] = words[:, None]
    visual_grad, text_grad = np.zeros(x.shape), grad[:, :, rows:].astype(np.float64).sum(1)
    for s, i in enumerate(members(tokens, n, group)):
        result[:, s, : len(i)] = visual[:, i]
        visual_grad[:, i] = grad[:, s, : len(i)]
    dx, *visual_gradients = rope_oracle(*wide[0], norm, GRID, split, grad=visual_grad)
    dtext, *text_gradients = rope_oracle(*wide[1], norm, None, None, grad=text_grad)
    gradients = [dx, dtext] + (visual_gradients + text_gradients if learned else [])
    check(run, RopeGrouped(name, n, group), (x, text, *weights) if learned else (x, text), grad, result, gradients)


def modulated(x, shift, scale, weight=None, bias=None):
    return ada_norm_modulate(x, shift, scale, weight, bias, eps=1e-6)


@pytest.mark.parametrize("learned", [True, False])
def test_ada_norm_modulate(learned, kind, run):
    x, grad, shift, scale, weight, bias = draw(3, (2, 75, 40), (2, 75, 40), (2, 1, 40), (2, 1, 40), (40,), (40,))
    x = x * 3 + 1
    inputs = (x, shift, scale, weight, bias) if learned else (x, shift, scale)
    own = (weight, bias) if learned else (np.ones(40), np.zeros(40))
    wide = [a.astype(np.float64) for a in (x, shift, scale, *own)]
    gradients = ada_oracle(*wide, grad=grad.astype(np.float64))
    check(run, modulated, inputs, grad, ada_oracle(*wide), gradients[: len(inputs)])


def test_gated_residual(kind, run):
    x, update, grad, gate = draw(4, (2, 75, 40), (2, 75, 40), (2, 75, 40), (2, 1, 40))
    wide, g = update.astype(np.float64), grad.astype(np.float64)
    gradients = g, (g * wide).sum(1, keepdims=True), gate * g
    check(run, gated_residual, (x, gate, update), grad, x + gate * wide, gradients)


# MindSpore's own sigmoid on CPU, which the definitions use, is off by 6e-6 of its value (see mindsora.kernels.gelu).
SIGMOID = {"cpu": TOLERANCE, "reference": 2e-5}


class Normed(nn.Cell):
    def __init__(self, norm, silu):
        super().__init__()
        self.norm, self.silu = norm, silu

    def construct(self, x, weight, bias=None):
        return row_norm(x, weight, bias, norm=self.norm, eps=1e-6, silu=self.silu)


@pytest.mark.parametrize(
    "norm, silu, channels", [("layer", True, 37), ("layer", False, 40), ("rms", False, 24), ("rms", True, 16)]
)
def test_row_norm(norm, silu, channels, kind, run):
    """Three axes in front, more rows than one item of work has, rows that end within a vector."""
    x, grad, weight, bias = draw(10, (2, 5, 15, channels), (2, 5, 15, channels), (channels,), (channels,))
    x = x * 3 + 1
    inputs = (x, weight, bias) if norm == "layer" else (x, weight)
    wide = [a.astype(np.float64) for a in (x, weight, bias if norm == "layer" else np.zeros(channels))]
    gradients = row_oracle(*wide, norm, silu, grad=grad.astype(np.float64))[: len(inputs)]
    tolerance = SIGMOID[kind] if silu else TOLERANCE
    check(run, Normed(norm, silu), inputs, grad, row_oracle(*wide, norm, silu), gradients, tolerance)


@pytest.mark.parametrize("gated", [True, False])
def test_gelu(gated, kind, run):
    """From inputs that give 0 to inputs that give x; more numbers than one work item, no whole number of vectors."""
    gate, grad = draw(11, (3, 41, 101), (3, 41, 101))
    x = np.linspace(-12, 12, gate.size, dtype=np.float32).reshape(gate.shape)
    inputs = (x, gate) if gated else (x,)
    wide = [a.astype(np.float64) for a in inputs]
    gradients = gelu_oracle(*wide, grad=grad.astype(np.float64))[: len(inputs)]
    check(run, gelu_tanh, inputs, grad, gelu_oracle(*wide), gradients, SIGMOID[kind])


class Haar(nn.Cell):
    def __init__(self, function, temporal):
        super().__init__()
        self.function, self.temporal = function, temporal

    def construct(self, x):
        return self.function(x, temporal=self.temporal, scale=0.3)


@pytest.mark.parametrize("temporal", [True, False])
def test_haar_and_its_transpose(temporal, kind, run):
    """Against the matrix of signs: tests/test_vae_blocks.py has upstream's numbers."""
    x, bands = draw(13, (2, 4, 6, 10, 3), (2, 2, 3, 5, 24) if temporal else (2, 4, 3, 5, 12))
    sign = np.array([[1, 1], [1, -1]])
    if temporal:
        place, axes = x.reshape(2, 2, 2, 3, 2, 5, 2, 3), "btiyjxlc,di,ej,fl->btyxdefc"
    else:
        place, axes = x.reshape(2, 4, 3, 2, 5, 2, 3), "btyjxlc,ej,fl->btyxfec"

    def there(x):
        return 0.3 * np.einsum(axes, x, *[sign] * (3 if temporal else 2)).reshape(bands.shape)

    def back(bands):
        inputs, output = axes.split("->")
        first, *signs = inputs.split(",")
        split_up = bands.reshape(bands.shape[:4] + (2,) * len(signs) + (3,))
        return 0.3 * np.einsum(f"{output},{','.join(signs)}->{first}", split_up, *[sign] * len(signs)).reshape(x.shape)

    check(run, Haar(split, temporal), (x,), bands, there(place.astype(np.float64)), [back(bands)])
    check(run, Haar(join, temporal), (bands,), x, back(bands.astype(np.float64)), [there(place)])


@pytest.mark.parametrize(
    "dtype, weight_dtype", [("float16", "float16"), ("float16", "float32"), ("float32", "float16")]
)
def test_norms_in_half_precision_have_the_dtype_they_have_upstream(dtype, weight_dtype):
    x, weight = (Tensor(a) for a in draw(12, (2, 3, 8), (8,)))
    x, weight = x.astype(getattr(ms, dtype)), weight.astype(getattr(ms, weight_dtype))
    assert row_norm(x, weight, weight, norm="layer", eps=1e-6).dtype == x.dtype
    assert row_norm(x, weight, norm="rms", eps=1e-6).dtype == weight.dtype
    assert gelu_tanh(x).dtype == x.dtype


def test_overflow_is_passed_on(kind):
    values = gelu_tanh(Tensor(np.array([np.nan, np.inf, 3e38, -1e4], np.float32))).asnumpy()
    np.testing.assert_array_equal(values[:3], np.float32([np.nan, np.inf, 3e38]))
    assert abs(values[3]) < 1e-30
    rows = row_norm(
        Tensor(np.float32([[1, np.nan, 2], [1, 2, 3]])), Tensor(np.ones(3, np.float32)), norm="rms", eps=1e-6
    )
    assert np.isnan(rows.asnumpy()[0]).all() and np.isfinite(rows.asnumpy()[1]).all()


def test_float16_is_no_worse_than_plain_float16(monkeypatch):
    """At most twice as wrong as every step in float16, against float64 from the same float16 numbers."""
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    x, weight, bias = draw(5, (1, 42, 3, 48), (48,), (48,), dtype=np.float16)
    stream, update, shift, scale = draw(6, (1, 42, 48), (1, 42, 48), (1, 1, 48), (1, 1, 48), dtype=np.float16)
    wide = [np.float32(a) for a in (shift, scale)]
    for ours, theirs in (
        (
            Rope("v1.5")(*map(Tensor, (x, weight, bias))),
            lambda t: rope_oracle(*(a.astype(t) for a in (x, weight, bias)), "rms", GRID, split_v1_5(48)),
        ),
        (
            modulated(Tensor(stream), *map(Tensor, wide), Tensor(weight), Tensor(bias)),
            lambda t: ada_oracle(*(a.astype(t) for a in (stream, shift, scale, weight, bias))),
        ),
        (
            gated_residual(Tensor(stream), Tensor(wide[0]), Tensor(update)),
            lambda t: stream.astype(t) + shift.astype(t) * update.astype(t),
        ),
    ):
        assert ours.dtype == ms.float16
        exact = theirs(np.float64)
        assert np.abs(ours.asnumpy() - exact).max() <= 2 * np.abs(theirs(np.float16) - exact).max()


@pytest.mark.full
def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    x, grad, shift, scale, weight, bias = draw(7, (2, 900, 96), (2, 900, 96), (2, 1, 96), (2, 1, 96), (96,), (96,))
    heads, head_grad = draw(8, (2, 42, 24, 128), (2, 42, 24, 128))
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        norm = ms.grad(Weighted(modulated, grad), (0, 1, 2, 3, 4))(*map(Tensor, (x, shift, scale, weight, bias)))
        gated = ms.grad(Weighted(gated_residual, grad), (0, 1, 2))(*map(Tensor, (x, shift, grad)))
        ones = np.ones(128, np.float32)
        rope = ms.grad(Weighted(Rope("layer"), head_grad), (0, 1, 2))(*map(Tensor, (heads, ones, ones)))
        rows = ms.grad(Weighted(Normed("layer", True), grad), (0, 1, 2))(*map(Tensor, (x, weight, bias)))
        gelu = ms.grad(Weighted(gelu_tanh, grad), (0, 1))(*map(Tensor, (x, grad)))
        results.append([a.asnumpy() for a in norm + gated + rope + rows + gelu])
    for one, three in zip(*results):
        np.testing.assert_array_equal(one, three)


def test_bad_input():
    x, stream, row = (Tensor(a) for a in draw(9, (1, 42, 2, 48), (2, 5, 8), (1, 1, 8)))
    rope = rope_tensors(GRID, split_v1_5(48), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="norm 'batch' must be one of none, rms, layer"):
        qk_norm_rope(x, norm="batch")
    with pytest.raises(InputError, match=r"split \(16, 16, 12\).*48 channels"):
        qk_norm_rope(x, rope=rope, norm="rms", split=(16, 16, 12))
    with pytest.raises(InputError, match=r"cos and sin of shape \(1, 42, 1, 48\)"):
        qk_norm_rope(x[:, :10], rope=rope, norm="rms", split=split_v1_5(48))
    with pytest.raises(InputError, match=r"row of shape \(1, 1, 8\) must be \(B, 1, C\)"):
        gated_residual(stream, row, stream)
    with pytest.raises(InputError, match=r"shape \(1, 3, 4, 4, 3\) must have even T, H and W"):
        split(Tensor(np.zeros((1, 3, 4, 4, 3), np.float32)), temporal=True, scale=1.0)
    with pytest.raises(InputError, match="norm 'group' must be one of layer, rms"):
        row_norm(stream, row[0, 0], norm="group", eps=1e-6)
    with pytest.raises(InputError, match=r"weight of shape \(1, 1, 8\) must be \(C,\)"):
        row_norm(stream, row, norm="rms", eps=1e-6)
    with pytest.raises(InputError, match=r"gate of shape \(1, 1, 8\) must have x's shape \(2, 5, 8\)"):
        gelu_tanh(stream, row)
