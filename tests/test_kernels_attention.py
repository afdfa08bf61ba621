"""Skiparse attention: definition and compiled operator against float64 NumPy, and that against finite differences.

Tolerances are relative to the largest number of a result: 2e-6 forward and 1e-5 for gradients are what float32 sums of
up to a thousand products, exponentials included, are off by.
"""

import platform

import mindspore as ms
import numpy as np
import pytest
from conftest import call, jitted
from kernel_oracles import members
from kernel_oracles import skiparse_attention as oracle
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.kernels import build
from mindsora.kernels.skiparse_attention import ascend, cpu, skiparse_attention

FORWARD, BACKWARD = 2e-6, 1e-5

# n, group, tokens, text tokens, heads, head_dim, real text tokens of each sample, share of masked video, text queries
CASES = {
    "dense": (1, False, 150, 9, 2, 64, (9,), 0, True),
    "dense, several blocks of queries": (1, False, 900, 40, 1, 32, None, 0, True),
    "n = 2": (2, False, 131, 6, 3, 32, (1, 6, 4), 0, True),
    "n = 2, group": (2, True, 128, 7, 2, 128, None, 0, True),
    "n = 3, group, masked": (3, True, 200, 5, 2, 48, (5, 2), 0.4, True),
    "n = 4": (4, False, 144, 8, 1, 96, None, 0, True),
    "n = 4, group, batch of 3": (4, True, 75, 6, 2, 96, (6, 3, 1), 0, True),
    "n = 8, most is padding": (8, False, 20, 6, 2, 80, (4, 6), 0, True),
    "n = 8, group, masked": (8, True, 330, 30, 1, 128, (17,), 0.6, True),
    "no text": (4, True, 75, 0, 2, 96, None, 0, False),
    "no text, masked": (2, False, 75, 0, 2, 96, None, 0.5, False),
    "text is only attended to": (2, True, 37, 6, 2, 64, (4, 6), 0, False),
}
# Vectors narrower than this machine's, and float16 without float16 instructions.
OTHER_PROCESSORS = ("x86-64", "x86-64-v3") if platform.machine() == "x86_64" else ("armv8-a",)
IN_GRAPHS = ("n = 3, group, masked", "n = 4", "no text")  # where the definition is compiled too


class Case:
    """Arrays of a case, float64 with values that float32 holds exactly."""

    def __init__(self, name, dtype=np.float32):
        self.n, self.group, tokens, length, heads, dim, self.lengths, masked, asks = CASES[name]
        random = np.random.default_rng(sum(map(ord, name)))
        batch = len(self.lengths or (0,))
        shapes = [(batch, tokens, heads, dim)] * 3 + [(batch, length, heads, dim)] * 3

        def draw(shape):
            return random.standard_normal(shape).astype(dtype).astype(np.float64)

        self.inputs = [draw(shape) if shape[1] else None for shape in shapes]
        if not asks:
            self.inputs[3] = None
        self.grads = draw(shapes[0]), draw(shapes[3]) if asks else None
        self.mask = (random.random((batch, tokens)) >= masked).astype(np.float64) if masked else None

    def oracle(self, dtype=np.float64):
        """Outputs, and gradients of the inputs that are present."""
        inputs = [None if x is None else x.astype(dtype) for x in self.inputs]
        grads = [None if x is None else x.astype(dtype) for x in self.grads]
        settings = self.n, self.group, self.lengths, self.mask
        outputs = oracle(*inputs, *settings)
        gradients = oracle(*inputs, *settings, grads=grads)
        return [x for x in outputs if x is not None], [g for g, x in zip(gradients, inputs) if x is not None]

    def run(self, run, dtype=np.float32, calls=1):
        """The same from MindSora; with several calls, the last one's of one compiled function."""
        tensors = [None if x is None else Tensor(x.astype(dtype)) for x in (*self.inputs, *self.grads)]
        lengths = None if self.lengths is None else Tensor(np.array(self.lengths, np.int32))
        mask = None if self.mask is None else Tensor(self.mask.astype(np.float32))
        where = tuple(i for i, x in enumerate(self.inputs) if x is not None)
        attention = Attention(self.n, self.group)
        function = ms.grad(attention, where, has_aux=True)
        function = ms.jit(function) if run.__name__ == "jitted" else function
        for _ in range(calls):
            gradients, (visual, text) = function(*tensors, lengths, mask)
        outputs = [visual] if self.inputs[3] is None else [visual, text]
        return [x.asnumpy() for x in outputs], [x.asnumpy() for x in gradients]


class Attention(nn.Cell):
    """sum(outputs * their gradients), and the outputs."""

    def __init__(self, n, group):
        super().__init__()
        self.n, self.group = n, group

    def construct(self, q, k, v, text_q, text_k, text_v, grad, text_grad, lengths, mask):
        visual, text = skiparse_attention(
            q,
            k,
            v,
            text_q,
            text_k,
            text_v,
            sparse_n=self.n,
            group=self.group,
            text_lengths=lengths,
            video_mask=mask,
        )
        loss = (visual * grad).astype(ms.float32).sum()
        if text is None:
            return loss, visual, visual
        return loss + (text * text_grad).astype(ms.float32).sum(), visual, text


def assert_near(actual, expected, tolerance):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=0, atol=tolerance * np.abs(b).max())


def test_the_oracle_has_the_slopes_it_says():
    """float64 gradients against central differences along random directions."""
    random = np.random.default_rng(3)
    for name in ("n = 3, group, masked", "n = 8, most is padding", "no text"):
        case = Case(name)
        gradients = iter(case.oracle()[1])

        def loss(inputs, case=case):
            outputs = oracle(*inputs, case.n, case.group, case.lengths, case.mask)
            return sum((x * g).sum() for x, g in zip(outputs, case.grads) if x is not None)

        for i, x in enumerate(case.inputs):
            if x is None:
                continue
            direction = random.standard_normal(x.shape)
            there, back = (
                loss([y + step * direction if j == i else y for j, y in enumerate(case.inputs)])
                for step in (1e-4, -1e-4)
            )
            slope = (next(gradients) * direction).sum()
            assert abs((there - back) / 2e-4 - slope) < 1e-6 * max(1, abs(slope))  # third-order term of the difference


@pytest.mark.parametrize(
    "name, run",
    # Compiled, the definition takes seconds; three cases reach all of its branches.
    [(name, call) for name in CASES] + [(name, jitted) for name in IN_GRAPHS],
)
def test_definition_matches_numpy(name, run, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "reference")
    case = Case(name)
    outputs, gradients = case.oracle()
    actual, actual_gradients = case.run(run)
    assert_near(actual, outputs, FORWARD)
    assert_near(actual_gradients, gradients, BACKWARD)


@pytest.mark.parametrize("name", CASES)
def test_compiled_operator_matches_definition_and_numpy(name, run, monkeypatch):
    case = Case(name)
    monkeypatch.setenv("MINDSORA_KERNELS", "reference")
    definition = case.run(call)
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    actual = case.run(run, calls=3)  # wrong gradients under jit have shown from the second call on
    assert_near(actual[0], case.oracle()[0], FORWARD)
    assert_near(actual[1], case.oracle()[1], BACKWARD)
    # The definition is no closer to the truth than MindSpore's exp on CPU, which is up to 6e-6 too small; so here both
    # outputs are held to the larger one's largest number.
    assert_near(
        [np.concatenate([x.ravel() for x in actual[0]])], [np.concatenate([x.ravel() for x in definition[0]])], FORWARD
    )
    assert_near(actual[1], definition[1], BACKWARD)


@pytest.mark.parametrize("name", ["n = 2", "n = 3, group, masked", "n = 8, most is padding", "no text"])
def test_float16_is_no_worse_than_plain_float16(name, monkeypatch):
    """At most twice as wrong as every step in float16, against float64 from the same float16 numbers."""
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    case = Case(name, np.float16)
    actual, exact, plain = case.run(call, np.float16), case.oracle(), case.oracle(np.float16)
    for kind in (0, 1):
        for ours, right, theirs in zip(actual[kind], exact[kind], plain[kind]):
            assert ours.dtype == np.float16
            assert np.abs(ours - right).max() <= 2 * np.abs(theirs - right).max()


@pytest.mark.full
@pytest.mark.parametrize("processor", OTHER_PROCESSORS)
def test_compiled_for_other_processors(processor, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    flags = [f"-march={processor}" if flag == "-march=native" else flag for flag in build.FLAGS]
    monkeypatch.setattr(build, "FLAGS", tuple(flags))
    single, half = Case("n = 3, group, masked"), Case("n = 3, group, masked", np.float16)
    for cache in (build.library, cpu.attention):
        cache.cache_clear()
    try:
        actual, actual_half = single.run(call), half.run(call, np.float16)
    finally:
        for cache in (build.library, cpu.attention):
            cache.cache_clear()
    exact, plain = half.oracle(), half.oracle(np.float16)
    for kind, tolerance in ((0, FORWARD), (1, BACKWARD)):
        assert_near(actual[kind], single.oracle()[kind], tolerance)
        for ours, right, theirs in zip(actual_half[kind], exact[kind], plain[kind]):
            assert np.abs(ours - right).max() <= 2 * np.abs(theirs - right).max()


@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_scores_of_hundreds_do_not_overflow(kind, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", kind)
    case = Case("n = 2")
    case.inputs[0] *= 200
    # Scores of 2000 are off by 1e-4 in float32, so the weights are off by as much.
    for actual, expected in zip(case.run(call), case.oracle()):
        assert_near(actual, expected, 5e-4)


@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_without_any_key_the_result_is_zero(kind, monkeypatch):
    """Every visual token of one sub-sequence is masked, and there is no text."""
    monkeypatch.setenv("MINDSORA_KERNELS", kind)
    case = Case("no text, masked")
    alone = members(75, 2, False)[1]
    case.mask[:, alone] = 0
    outputs, gradients = case.run(call)
    assert not outputs[0][:, alone].any()
    assert_near(outputs, case.oracle()[0], FORWARD)
    assert_near(gradients, case.oracle()[1], BACKWARD)


@pytest.mark.parametrize("kind", ["reference", "cpu"])
def test_padded_text_and_masked_video_influence_nothing_else(kind, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", kind)
    case = Case("n = 3, group, masked")
    real = case.mask != 0

    def outputs():
        visual, text = case.run(call)[0]
        return [visual[real]] + [text[b, :length] for b, length in enumerate(case.lengths)]

    before = outputs()
    for x in case.inputs[:3]:
        x[~real] += 100
    for x in case.inputs[3:]:
        for b, length in enumerate(case.lengths):
            x[b, length:] -= 100
    for a, b in zip(before, outputs()):
        np.testing.assert_array_equal(a, b)


def test_queries_of_the_definition_taken_in_parts(monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "reference")
    case = Case("n = 4")
    whole = case.run(call)[0]
    monkeypatch.setattr("mindsora.kernels.skiparse_attention.reference.MAX_SCORES", 4 * 44 * 7)  # seven at a time
    assert_near(case.run(call)[0], whole, 1e-6)


@pytest.mark.full
def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    case, results = Case("n = 8, group, masked"), []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        results.append(case.run(call))
    for one, three in zip(results[0][0] + results[0][1], results[1][0] + results[1][1]):
        np.testing.assert_array_equal(one, three)


def test_inputs_that_are_views(monkeypatch):
    """Transposed and sliced tensors share memory in PyNative; the operator must read them in their logical order."""
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    case = Case("dense")
    wide = Tensor(np.stack(case.inputs[:3], 3).astype(np.float32).transpose(0, 2, 1, 3, 4))  # (B, H, N, 3, D)
    q, k, v = (wide[:, :, :, i].transpose(0, 2, 1, 3) for i in range(3))
    text = [Tensor(x.astype(np.float32)) for x in case.inputs[3:]]
    actual = skiparse_attention(q, k, v, *text, sparse_n=1, group=False)
    assert_near([x.asnumpy() for x in actual], case.oracle()[0], FORWARD)


def test_two_sparsities_in_one_graph():
    """MindSpore keeps one shape inference per operator name: the inference must not keep another layer's n."""
    case = Case("n = 4")
    tensors = [Tensor(x.astype(np.float32)) for x in case.inputs]

    def both(*inputs):
        single = skiparse_attention(*inputs, sparse_n=4, group=False)
        return single, skiparse_attention(*inputs, sparse_n=2, group=True)

    single, group = ms.jit(both)(*tensors)
    assert_near([x.asnumpy() for x in single], case.oracle()[0], FORWARD)
    assert_near([x.asnumpy() for x in group], oracle(*case.inputs, 2, True), FORWARD)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"k": (1, 7, 2, 16)}, ["(1, 7, 2, 16)", "one shape"]),
        ({"text_k": (1, 5, 2, 16)}, ["text_k (1, 5, 2, 16)", "one shape"]),
        ({"text_q": (2, 4, 2, 16), "text_k": (2, 4, 2, 16), "text_v": (2, 4, 2, 16)}, ["(2, 4, 2, 16)", "batch"]),
        ({"sparse_n": 0}, ["sparse_n 0", "1 is full attention"]),
    ],
)
def test_bad_input(change, words):
    shapes = dict.fromkeys("qkv", (1, 8, 2, 16)) | dict.fromkeys(("text_q", "text_k", "text_v"), (1, 4, 2, 16)) | change
    sparse_n = shapes.pop("sparse_n", 1)
    with pytest.raises(InputError) as error:
        skiparse_attention(
            **{name: Tensor(np.zeros(shape, np.float32)) for name, shape in shapes.items()},
            sparse_n=sparse_n,
            group=False,
        )
    assert all(word in str(error.value) for word in words), error.value


def flash_attention_score(
    q, k, v, head_num, actual_seq_qlen=None, actual_seq_kvlen=None, scalar_value=1.0, input_layout="BSH"
):
    """The documented behaviour and refusals of CANN's operator, in NumPy; CPU has no such operator."""
    q, k, v = (x.asnumpy().astype(np.float64) for x in (q, k, v))
    assert q.shape == k.shape == v.shape and q.shape[-2] == head_num
    if input_layout == "BSND":
        assert actual_seq_qlen is None and actual_seq_kvlen is None
        lengths = [q.shape[1]] * q.shape[0]
    else:
        assert input_layout == "TND" and q.ndim == 3
        if isinstance(actual_seq_qlen, tuple):  # known when the graph is compiled
            ends = np.array(actual_seq_qlen)
            assert actual_seq_kvlen == actual_seq_qlen
        else:
            ends = actual_seq_qlen.asnumpy()
            np.testing.assert_array_equal(ends, actual_seq_kvlen.asnumpy())
        lengths = np.diff(ends, prepend=0)
        assert (lengths > 0).all() and ends[-1] == len(q) and len(ends) <= 1024
    shape, (q, k, v) = q.shape, (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    out, start = np.zeros(q.shape), 0
    for length in lengths:
        rows = slice(start, start + length)
        out[None, rows], _ = oracle(*(x[None, rows] for x in (q, k, v)), None, None, None, 1, False)
        start += length
    assert scalar_value == 1 / np.sqrt(shape[-1])  # as the oracle scales
    return Tensor(out.reshape(shape).astype(np.float32))


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_layout_for_the_operator_of_ascend(name, on_host, monkeypatch):
    """Rows, segments and their inverse order, with a stand-in for the operator itself."""
    monkeypatch.setattr(ascend.ops, "flash_attention_score", flash_attention_score)
    case = Case(name)
    tensors = [None if x is None else Tensor(x.astype(np.float32)) for x in case.inputs]
    lengths = None if case.lengths is None else Tensor(np.array(case.lengths, np.int32))
    mask = None if case.mask is None else Tensor(case.mask.astype(np.float32))
    segments = None
    if on_host and case.lengths and mask is None:
        tokens, text = case.inputs[0].shape[1], case.inputs[4].shape[1]
        segments = ascend.segment_ends(case.lengths, tokens, text, case.n, case.group)
    visual, text = ascend.attention(
        *tensors, sparse_n=case.n, group=case.group, text_lengths=lengths, video_mask=mask, segments=segments
    )
    expected, expected_text = oracle(*case.inputs, case.n, case.group, case.lengths, case.mask)
    real = np.ones(expected.shape[:2], bool) if case.mask is None else case.mask != 0
    assert_near([visual.asnumpy()[real]], [expected[real]], FORWARD)
    if expected_text is None:
        assert text is None
        return
    for b in range(len(expected)):
        words = slice(0, case.lengths[b] if case.lengths else None)
        assert_near([text.asnumpy()[b, words]], [expected_text[b, words]], FORWARD)
