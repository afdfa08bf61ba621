"""Attention of video tokens to text alone: definition, compiled operator and Ascend form against float64 NumPy.

It is joint attention with every visual key left out, which is how the oracle computes it; tolerances are those of
`test_kernels_attention`.
"""

import mindspore as ms
import numpy as np
import pytest
from kernel_oracles import skiparse_attention as oracle
from mindspore import Tensor, nn
from test_kernels_attention import BACKWARD, FORWARD, assert_near

from mindsora.errors import InputError
from mindsora.kernels.skiparse_attention import ascend, cross_attention

SHAPE, LENGTH, LENGTHS = (2, 75, 3, 48), 9, (4, 9)


def arrays(dtype=np.float32):
    random = np.random.default_rng(5)
    shapes = SHAPE, (2, LENGTH, 3, 48), (2, LENGTH, 3, 48), SHAPE
    return [random.standard_normal(shape).astype(dtype).astype(np.float64) for shape in shapes]  # q, k, v, gradient


def expected(lengths, dtype=np.float64):
    q, k, v, grad = (x.astype(dtype) for x in arrays(np.float16 if dtype == np.float16 else np.float32))
    settings = (q, q, q, None, k, v, 1, False, lengths, np.zeros(SHAPE[:2]))
    gradients = oracle(*settings, grads=(grad, None))
    return [oracle(*settings)[0]], [gradients[i] for i in (0, 4, 5)]


class Attention(nn.Cell):
    def construct(self, q, k, v, grad, lengths):
        out = cross_attention(q, k, v, lengths)
        return (out * grad).astype(ms.float32).sum(), out


def actual(run, lengths, dtype=np.float32, calls=1):
    tensors = [Tensor(x.astype(dtype)) for x in arrays(dtype)]
    lengths = None if lengths is None else Tensor(np.array(lengths, np.int32))
    function = ms.grad(Attention(), (0, 1, 2), has_aux=True)
    function = ms.jit(function) if run.__name__ == "jitted" else function
    for _ in range(calls):
        gradients, (out,) = function(*tensors, lengths)
    return [out.asnumpy()], [x.asnumpy() for x in gradients]


@pytest.mark.parametrize("kind", ["reference", "cpu"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all words", "padded"])
def test_matches_numpy(kind, lengths, run, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", kind)
    outputs, gradients = actual(run, lengths, calls=3)  # wrong gradients under jit have shown from the second call on
    # MindSpore's exp on CPU is up to 6e-6 too small, which the definition's outputs share.
    assert_near(outputs, expected(lengths)[0], FORWARD if kind == "cpu" else 1e-5)
    assert_near(gradients, expected(lengths)[1], BACKWARD)


def test_float16_is_no_worse_than_plain_float16(run, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    random = arrays(np.float16)
    q, k, v, grad = random
    settings = (q, q, q, None, k, v, 1, False, LENGTHS, np.zeros(SHAPE[:2]))
    gradients = oracle(*settings, grads=(grad, None))
    exact = [oracle(*settings)[0]], [gradients[i] for i in (0, 4, 5)]
    ours, plain = actual(run, LENGTHS, np.float16), expected(LENGTHS, np.float16)
    for kind in (0, 1):
        for a, right, theirs in zip(ours[kind], exact[kind], plain[kind]):
            assert a.dtype == np.float16
            assert np.abs(a - right).max() <= 2 * np.abs(theirs - right).max()


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all words", "padded"])
def test_form_for_the_operator_of_ascend(lengths, monkeypatch):
    """With a stand-in that follows the documentation of CANN's operator for this layout and mask."""

    def flash_attention_score(q, k, v, head_num, attn_mask=None, scalar_value=1.0, input_layout="BSH"):
        assert input_layout == "BSND" and head_num == q.shape[2] and scalar_value == 1 / np.sqrt(q.shape[3])
        shape = (q.shape[0], 1, q.shape[1], k.shape[1])
        mask = np.zeros(shape) if attn_mask is None else attn_mask.asnumpy()
        assert mask.shape == shape and (attn_mask is None or attn_mask.dtype == ms.uint8)
        assert (mask == mask[:, :, :1]).all()  # the same keys for every query
        words = [int((row == 0).sum()) for row in mask[:, 0, 0]]
        assert all(not row[:n].any() for row, n in zip(mask[:, 0, 0], words))
        q, k, v = (x.asnumpy().astype(np.float64) for x in (q, k, v))
        out, _ = oracle(q, q, q, None, k, v, 1, False, words, np.zeros(q.shape[:2]))
        return Tensor(out.astype(np.float32))

    monkeypatch.setattr(ascend.ops, "flash_attention_score", flash_attention_score)
    tensors = [Tensor(x.astype(np.float32)) for x in arrays()[:3]]
    out = ascend.cross_attention(*tensors, None if lengths is None else Tensor(np.array(lengths, np.int32)))
    assert_near([out.asnumpy()], expected(lengths)[0], FORWARD)


@pytest.mark.parametrize(
    "shapes", [((1, 8, 2, 16), (1, 4, 2, 8)), ((1, 8, 2, 16), (2, 4, 2, 16)), ((8, 2, 16), (4, 2, 16))]
)
def test_bad_input(shapes, run):
    q, k = (Tensor(np.zeros(shape, np.float32)) for shape in shapes)
    with pytest.raises(InputError) as error:
        run(cross_attention, q, k, k)
    assert f"q {shapes[0]}" in str(error.value) and f"k {shapes[1]}" in str(error.value)
