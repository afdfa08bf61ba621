"""The AscendC kernels, unmodified, on the host twin against float64 NumPy.

The limit is that of FlashAttention's own tests: at most twice as wrong as the plain computation in the same dtype. The
twin also checks every access, queue and flag (tests/ascendc_host).
"""

import kernel_oracles as oracle
import numpy as np
import pytest
from ascendc_host import twin

from mindsora.nn.rope import rope_table, split_v1_3, split_v1_5

pytestmark = pytest.mark.full

HALVES = ["float16", "bfloat16"]
SMALL = {"tile": 64, "block": 64, "pass": 8}  # several blocks and tiles in a few hundred tokens


@pytest.fixture(scope="module", autouse=True)
def compiled():
    twin.build_all()


def draw(dtype, *shapes, scale=1.0, seed=0):
    random = np.random.RandomState(seed)
    return [(scale * random.standard_normal(shape)).astype(np.float32).astype(twin.DTYPES[dtype]) for shape in shapes]


def assert_as_good(name, actual, exact, plain):
    """actual is at most twice as far from exact as plain is."""
    limit = 2 * np.abs(plain.astype(np.float64) - exact).max()
    error = np.abs(actual.reshape(exact.shape).astype(np.float64) - exact).max()
    assert error <= limit, f"{name}: wrong by {error:.2e}, twice the plain computation's error is {limit:.2e}"


class Rounded(np.ndarray):
    """float32 numbers, rounded to 16 bits after every operation: the plain half-precision computation.

    (NumPy has no bfloat16 of its own, and computes some things of a mixed expression in float32.)
    """

    kind = None
    __array_priority__ = 1  # concatenations stay of this type

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        result = getattr(ufunc, method)(*(np.asarray(x, np.float32) for x in inputs), **options)
        result = np.asarray(result).astype(self.kind).astype(np.float32)
        if out is None:
            return result.view(type(self))
        out[0].view(np.ndarray)[...] = result
        return out[0]


def plainly(dtype):
    """A cast to numbers that are rounded to `dtype` after every operation."""
    numbers = type(f"Rounded_{dtype}", (Rounded,), {"kind": twin.DTYPES[dtype]})
    return lambda x: np.asarray(x).astype(numbers.kind).astype(np.float32).view(numbers)


def compared(names, actual, exact, plain):
    for name, e, p in zip(names, exact, plain, strict=True):
        if name in actual:
            assert_as_good(name, actual[name], e, np.asarray(p))


def permuted(x, n, group):
    """(B, N, ...) -> (B, n, R, ...) by the sets of tokens."""
    rows = -(-x.shape[1] // n**2) * n
    y = np.zeros((x.shape[0], n, rows) + x.shape[2:], x.dtype)
    for s, tokens in enumerate(oracle.members(x.shape[1], n, group)):
        y[:, s, : len(tokens)] = x[:, tokens]
    return y


@pytest.mark.parametrize("tokens", [7, 64, 133])
@pytest.mark.parametrize("n, group", [(1, 0), (2, 0), (2, 1), (3, 1), (4, 0), (4, 1), (8, 0), (8, 1)])
@pytest.mark.parametrize("cores, ub", [(1, 183 * 1024), (3, 8192 + 2 * 32 * 10)])  # one tile; tiles of ten rows
def test_permute_and_back(n, group, tokens, cores, ub):
    x = np.random.RandomState(0).randint(-9, 9, (2, tokens, 16)).astype(np.int16)
    case = {"batch": 2, "tokens": tokens, "row_bytes": 32, "n": n, "group": group, "cores": cores, "ub": ub}
    rows = twin.run("skiparse_permute", {"x": x}, {"y": "int16"}, inverse=0, **case)[0]["y"]
    expected = permuted(x, n, group)
    np.testing.assert_array_equal(rows.reshape(expected.shape), expected)
    back = twin.run("skiparse_permute", {"x": rows}, {"y": "int16"}, inverse=1, **case)[0]["y"]
    np.testing.assert_array_equal(back.reshape(x.shape), x)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", ["norm", "residual and norm", "residual"])
@pytest.mark.parametrize("channels, rows, cores", [(64, 5, 1), (208, 7, 2), (48, 3, 1), (3072, 3, 1)])
def test_ada_norm_modulate(dtype, mode, channels, rows, cores):
    x, branch = draw(dtype, (2, rows, channels), (2, rows, channels), scale=2)
    shift, scale, gate, weight, bias = draw(dtype, *[(2, 1, channels)] * 3, *[(channels,)] * 2, seed=1)
    x = (x.astype(np.float32) + 3).astype(x.dtype)  # a large mean, which must not swamp the variance
    inputs, outputs = {"x": x}, {}
    if "norm" in mode:
        inputs |= {"shift": shift, "scale": scale, "weight": weight, "bias": bias}
        outputs["y"] = dtype
    if "residual" in mode:
        inputs |= {"branch": branch, "gate": gate}
        outputs["h"] = dtype
    floats = {k: v if k in ("x", "branch") else v.astype(np.float32) for k, v in inputs.items()}
    actual, _ = twin.run(
        "ada_norm_modulate",
        floats,
        outputs,
        batch=2,
        rows=rows,
        channels=channels,
        eps=1e-6,
        gated="residual" in mode,
        normed="norm" in mode,
        brain=dtype == "bfloat16",
        cores=cores,
    )

    def compute(cast):
        a = {k: cast(v) for k, v in inputs.items()}
        h = (a["x"] + a["gate"] * a["branch"]) if "residual" in mode else a["x"]
        y = (
            oracle.ada_norm_modulate(h, *(a[k] for k in ("shift", "scale", "weight", "bias")))
            if "norm" in mode
            else None
        )
        return h, y

    exact, plain = compute(np.float64), compute(plainly(dtype))
    compared(("h", "y"), actual, exact, plain)


SPLITS = {64: split_v1_5(64), 128: split_v1_5(128), 96: split_v1_3(96), 48: split_v1_5(48)}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("dim, heads", [(64, 3), (128, 2), (96, 2), (48, 1)])  # 64 and 48: halves that Gather exchanges
@pytest.mark.parametrize(
    "n, group, grid, length, rope, cores",
    [(1, 0, (4, 3, 2), 0, 1, 1), (2, 1, (4, 3, 2), 5, 1, 2), (4, 0, (5, 3, 2), 3, 1, 1), (8, 1, (2, 3, 2), 2, 0, 1)],
)
def test_qk_norm_rope(dtype, norm, dim, heads, n, group, grid, length, rope, cores):
    tokens, split = int(np.prod(grid)), SPLITS[dim]
    x, text = draw(dtype, (2, tokens, heads, dim), (2, length, heads, dim), scale=2)
    weight, bias = draw(dtype, (2, dim), (2, dim), seed=1)
    inputs = {"x": x}
    if length:
        inputs["text_x"] = text
    if norm != "none" or dim == 64:
        inputs |= {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    if rope:
        inputs |= dict(zip(("cos", "sin"), rope_table(grid, split), strict=True))
    kind = ("none", "rms", "layer").index(norm)
    actual, _ = twin.run(
        "qk_norm_rope",
        inputs,
        {"y": dtype},
        batch=2,
        tokens=tokens,
        text=length,
        heads=heads,
        dim=dim,
        n=n,
        group=group,
        norm=kind,
        rope=rope,
        split_t=split[0],
        split_y=split[1],
        split_x=split[2],
        eps=1e-6,
        brain=dtype == "bfloat16",
        cores=cores,
    )

    def compute(cast):
        streams = []
        for i, (stream, place) in enumerate(((x, grid if rope else None), (text, None))):
            w, b = (cast(weight[i]), cast(bias[i])) if "weight" in inputs else (1, 0)
            streams.append(np.asarray(oracle.qk_norm_rope(cast(stream), w, b, norm, place, split)))
        words = np.broadcast_to(streams[1][:, None], (2, n, length, heads, dim))
        return [np.concatenate([permuted(streams[0], n, group), words], 2)]

    compared(("y",), actual, compute(np.float64), compute(plainly(dtype)))


# n, group, tokens, text, dim, heads, cores, more. Tokens that n^2 does not divide leave padding; at n = 8 with 5 tokens
# whole sub-sequences hold nothing but padding. `tile` None: tiles as on the device.
ATTENTION = {
    "dense": (1, 0, 100, 9, 64, 1, 1, {}),
    "dense, device tiles": (1, 0, 300, 40, 64, 1, 2, {"tile": None}),
    "dense, one token": (1, 0, 1, 1, 128, 2, 3, {}),
    "single 2": (2, 0, 90, 33, 128, 2, 2, {}),
    "group 2": (2, 1, 70, 5, 96, 2, 2, {}),
    "group 2, device tiles": (2, 1, 301, 3, 128, 1, 1, {"tile": None}),
    "group 2, many blocks": (2, 1, 350, 33, 96, 1, 2, {}),
    "no text": (2, 0, 77, 0, 64, 2, 2, {}),
    "group 3": (3, 1, 40, 17, 64, 1, 2, {}),
    "single 4, heads before tokens": (4, 0, 50, 20, 64, 2, 3, {"layout": 1}),
    "group 4": (4, 1, 288, 7, 96, 1, 4, {}),
    "single 8": (8, 0, 130, 33, 64, 1, 2, {}),
    "single 8, sub-sequences of padding": (8, 0, 5, 33, 64, 1, 2, {}),
    "group 8": (8, 1, 70, 3, 128, 1, 2, {}),
    "group 8, stride beyond 16 bits": (8, 1, 140, 3, 128, 8, 5, {}),  # 64 * 8 * 128 elements
}


class Attention:
    """One case, by name or as its numbers, on the twin: inputs, and runs of the two kernels."""

    def __init__(self, case, dtype, **changes):
        n, group, tokens, length, dim, heads, cores, more = ATTENTION[case] if isinstance(case, str) else case
        self.dtype, self.n, self.group = dtype, n, group
        self.lengths = np.array([max(1, length - 2), length], np.int32)
        self.order = (0, 2, 1, 3) if more.get("layout") else (0, 1, 2, 3)
        self.numbers = {
            "batch": 2,
            "tokens": tokens,
            "text": length,
            "heads": heads,
            "dim": dim,
            "n": n,
            "group": group,
            "brain": dtype == "bfloat16",
            "cores": cores,
            **({} if "tile" in more else SMALL),
            "layout": more.get("layout", 0),
            **changes,
        }
        video, text = (2, tokens, heads, dim), (2, length, heads, dim)
        self.inputs = draw(dtype, *[video] * 3, *[text] * 3, seed=2)
        self.grads = draw(dtype, video, text, seed=3)
        self.text = ("text_q", "text_k", "text_v") if length else ()

    def place(self, x):
        return x.transpose(self.order)

    def forward(self, **changes):
        inputs = dict(zip(("q", "k", "v") + self.text, map(self.place, self.inputs), strict=False))  # no text: three
        outputs = {"out": self.dtype, "lse": "float32"}
        if self.text:
            inputs["lengths"] = self.lengths
            outputs |= {"text_out": self.dtype, "text_parts": self.dtype}
        return twin.run("skiparse_attention", inputs, outputs, **(self.numbers | changes))

    def backward(self, forward, **changes):
        inputs = dict(zip(("q", "k", "v") + self.text, map(self.place, self.inputs), strict=False))  # no text: three
        words = [inputs.pop(name).ravel() for name in self.text]
        inputs |= {"out": forward["out"], "lse": forward["lse"], "d_out": self.place(self.grads[0])}
        outputs = dict.fromkeys(("dq", "dk", "dv"), self.dtype)
        if self.text:
            words = [forward["text_parts"], *words, self.place(self.grads[1]).ravel()]
            inputs |= {"lengths": self.lengths, "text_stack": np.concatenate(words)}
            outputs["d_text"] = self.dtype
        gradients, counters = twin.run("skiparse_attention_grad", inputs, outputs, **(self.numbers | changes))
        if "d_text" in gradients:
            parts = gradients.pop("d_text").reshape(3, -1)
            gradients |= dict(zip(("d_text_q", "d_text_k", "d_text_v"), parts, strict=True))
        return gradients, counters

    def oracle(self, cast, grads=False):
        arrays = [cast(x) for x in self.inputs]
        given = [cast(x) for x in self.grads] if grads else None
        result = oracle.skiparse_attention(*arrays, self.n, self.group, self.lengths, grads=given)
        return [np.asarray(self.place(x)) for x in result]


def check_attention(case):
    """Forward, and both forms of the gradient."""
    dtype = case.dtype
    forward, _ = case.forward()
    compared(("out", "text_out"), forward, case.oracle(np.float64), case.oracle(plainly(dtype)))
    exact, plain = case.oracle(np.float64, grads=True), case.oracle(plainly(dtype), grads=True)
    names = ("dq", "dk", "dv", "d_text_q", "d_text_k", "d_text_v")
    for deterministic in (False, True):
        backward, counters = case.backward(forward, deterministic=deterministic)
        compared(names, backward, exact, plain)
        assert not (deterministic and counters["shared"]), "an order of additions that cores settle among themselves"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name, dtype):
    check_attention(Attention(name, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize("tokens, text", [(37, 0), (37, 40), (150, 7), (192, 33)])
@pytest.mark.parametrize("n, group", [(1, 0), (2, 0), (2, 1), (4, 0), (4, 1), (8, 0), (8, 1)])
def test_attention_grid(n, group, tokens, text, dim, dtype):
    check_attention(Attention((n, group, tokens, text, dim, 2, 1 + tokens % 4, {}), dtype))


def test_tiling_keys_of_the_cases():
    """The cases cover every way to gather a tile: in one instruction, in one for whole runs, run by run."""
    keys = {Attention(name, "float16").forward()[1]["key"] for name in ATTENTION}
    assert keys == {0, 1, 2}


def same(a, b):
    return all(np.array_equal(a[name].view(np.uint16), b[name].view(np.uint16)) for name in a)


@pytest.mark.parametrize("name", ["single 2", "group 4"])
def test_results_do_not_depend_on_cores_or_their_pace(name):
    case = Attention(name, "float16")
    forward, _ = case.forward(cores=1)
    backward, _ = case.backward(forward, cores=1, deterministic=True)
    assert case.backward(forward, cores=3, deterministic=False)[1]["shared"], "cores add to each other's sums of dQ"
    for cores, backwards in ((3, 0), (3, 1), (8, 1)):
        assert same(forward, case.forward(cores=cores, backwards=backwards)[0])
        again, _ = case.backward(forward, cores=cores, backwards=backwards, deterministic=True)
        assert same(backward, again)


def test_what_is_absent_reaches_nothing():
    """Text keys and values past a sample's length may hold anything; their gradients are zero."""
    case = Attention("group 2", "float16")
    forward, _ = case.forward()
    backward, _ = case.backward(forward)
    for x in case.inputs[4:]:
        x[0, case.lengths[0] :] = np.nan
    assert same(forward, case.forward()[0])
    again, _ = case.backward(forward)
    assert same(backward, again)
    for name in ("d_text_k", "d_text_v"):
        assert not again[name].reshape(case.inputs[4].shape)[0, case.lengths[0] :].any()


def test_large_scores_stay_finite():
    case = Attention("single 2", "float16")
    case.inputs[0], case.inputs[1] = case.inputs[0] * np.float16(30), case.inputs[1] * np.float16(30)
    forward, _ = case.forward()
    exact = case.oracle(np.float64)
    np.testing.assert_allclose(forward["out"].reshape(exact[0].shape), exact[0], rtol=0, atol=4e-3)  # 4 half steps of 1
    assert all(np.isfinite(x).all() for x in case.backward(forward)[0].values())


@pytest.mark.parametrize(
    "operator, changes, message",
    [
        ("skiparse_attention", {"dim": 40}, "head_dim 40; a multiple of 16 up to 128"),
        ("skiparse_attention", {"n": 65}, "sparse_n 65 must be 1 to 64"),
        ("skiparse_attention", {"tile": 512, "block": 1024, "pass": 16}, "more than there is"),
    ],
)
def test_shapes_that_cannot_be_served_are_said(operator, changes, message):
    with pytest.raises(twin.TwinError, match=message):
        Attention("single 2", "float16").forward(**changes)
