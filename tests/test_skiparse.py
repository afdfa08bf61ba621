"""Skiparse permutation, key exclusion, text copies and text lengths against upstream's tables."""

import re

import mindspore as ms
import numpy as np
import pytest
from golden_file import Golden, assert_close
from kernel_oracles import members
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.kernels.skiparse_attention.reference import EXCLUDED, key_bias, mean_over_copies, repeat
from mindsora.kernels.skiparse_permute import skiparse_permute, skiparse_unpermute
from mindsora.kernels.skiparse_permute.reference import padded_length

GOLDEN = Golden("skiparse_tables")
CASES = [re.fullmatch(r"perm_L(\d+)_n(\d+)_(\w+)", key) for key in GOLDEN.outputs if key.startswith("perm")]


@pytest.fixture(params=["reference", "cpu"])
def kind(request, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", request.param)
    return request.param


class There(nn.Cell):
    def __init__(self, n, group):
        super().__init__()
        self.n, self.group = n, group

    def construct(self, x):
        return skiparse_permute(x, sparse_n=self.n, group=self.group)


class Back(nn.Cell):
    def __init__(self, tokens, group):
        super().__init__()
        self.tokens, self.group = tokens, group

    def construct(self, x):
        return skiparse_unpermute(x, tokens=self.tokens, group=self.group)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_rows_are_upstreams(case, kind):
    length, n, group = int(case[1]), int(case[2]), case[3] == "group"
    tokens = np.arange(1, length + 1, dtype=np.float32)  # 0 is padding
    tokens = tokens[None, :, None, None] * np.array([1, 1000], np.float32).reshape(1, 1, 2, 1)  # two heads
    rows = There(n, group)(Tensor(tokens))
    expected = GOLDEN.outputs[case[0]] + 1
    np.testing.assert_array_equal(rows.asnumpy(), np.stack([expected, 1000 * expected], 2)[None, ..., None])
    np.testing.assert_array_equal(Back(length, group)(rows).asnumpy(), tokens)


@pytest.mark.parametrize("n, group, tokens", [(1, False, 30), (3, True, 36), (4, False, 37), (8, True, 105)])
def test_permutation_and_its_gradient(n, group, tokens, kind, run):
    """The permutation and its inverse; each is the gradient of the other."""
    random = np.random.default_rng(n)
    x = random.standard_normal((2, tokens, 3, 4), np.float32)
    rows = np.zeros((2, n, padded_length(tokens, n) // n, 3, 4), np.float32)
    g = random.standard_normal(rows.shape, np.float32)
    back = np.zeros_like(x)
    for s, i in enumerate(members(tokens, n, group)):
        rows[:, s, : len(i)] = x[:, i]
        back[:, i] = g[:, s, : len(i)]
    there = ms.grad(Weighted(There(n, group), Tensor(g)), has_aux=True)
    here = ms.grad(Weighted(Back(tokens, group), Tensor(x)), has_aux=True)
    for _ in range(2):
        for function, argument, result, gradient in ((there, x, rows, back), (here, g, back, rows)):
            gradients, (actual,) = run(function, Tensor(argument))
            np.testing.assert_array_equal(actual.asnumpy(), result)
            np.testing.assert_array_equal(gradients.asnumpy(), gradient)


class Weighted(nn.Cell):
    def __init__(self, cell, weights):
        super().__init__()
        self.cell, self.weights = cell, weights

    def construct(self, x):
        y = self.cell(x)
        return (y * self.weights).sum(), y


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.bool_, np.float64])
def test_any_dtype_and_any_axes(dtype, kind):
    x = (np.arange(2 * 21) % 5).reshape(2, 21).astype(dtype)
    rows = skiparse_permute(Tensor(x), sparse_n=2, group=True)
    assert rows.asnumpy().dtype == dtype
    for s, i in enumerate(members(21, 2, True)):
        np.testing.assert_array_equal(rows.asnumpy()[:, s, : len(i)], x[:, i])
    np.testing.assert_array_equal(skiparse_unpermute(rows, tokens=21, group=True).asnumpy(), x)


def test_bad_input():
    x = Tensor(np.zeros((1, 2, 12, 4), np.float32))
    with pytest.raises(InputError, match="12 tokens do not fill 2 sub-sequences of 12 rows; legal: 21 to 24"):
        skiparse_unpermute(x, tokens=12, group=False)
    with pytest.raises(InputError, match="sparse_n 0"):
        skiparse_permute(x, sparse_n=0, group=False)


def test_padding_is_upstreams():
    for case, padding in GOLDEN.config["pad"].items():
        length, n = map(int, re.findall(r"\d+", case))
        assert padded_length(length, n) - length == padding


@pytest.mark.parametrize("case", [key for key in GOLDEN.outputs if key.startswith("masked_keys")])
def test_excluded_keys_are_upstreams(case):
    size, kind = case.removeprefix("masked_keys_").rsplit("_", 1)
    video, text = GOLDEN.inputs[f"video_mask_{size}"], GOLDEN.inputs[f"text_mask_{size}"]
    n = int(size.split("_n")[1])
    expected = GOLDEN.outputs[case].reshape(n, len(video), -1).transpose(1, 0, 2)  # upstream is sub-sequence-major
    lengths = text.sum(-1).astype(np.int32)
    if (prefix := np.arange(5) < lengths[:, None]).tolist() != (text != 0).tolist():
        # This table has gaps in the text mask, which no tokeniser makes and lengths cannot express.
        expected = np.concatenate([expected[..., :-5], np.broadcast_to(~prefix[:, None], expected[..., -5:].shape)], -1)
    text_k = Tensor(np.zeros((len(video), 5, 1, 1), np.float32))
    bias = key_bias(*video.shape, text_k, n, kind == "group", Tensor(lengths), Tensor(video)).asnumpy()
    assert set(np.unique(bias)) <= {0, np.float32(EXCLUDED)}
    np.testing.assert_array_equal(bias[:, :, 0, 0] != 0, expected != 0)


def test_text_copies_and_their_mean_are_upstreams():
    text = GOLDEN.inputs["text_repeat"].transpose(1, 0, 2)[:, :, None]  # (B, L, 1, D)
    copies = repeat(Tensor(text), 3).asnumpy()[:, :, 0]  # (B, n, L, D)
    np.testing.assert_array_equal(copies.transpose(2, 1, 0, 3).reshape(3, 6, 4), GOLDEN.outputs["text_repeat"])
    copies = GOLDEN.inputs["text_merge"].reshape(3, 3, 2, 4).transpose(2, 1, 0, 3)[:, :, None]  # (B, n, 1, L, D)
    mean = mean_over_copies(Tensor(np.ascontiguousarray(copies))).asnumpy()[:, 0]
    assert_close(mean.transpose(1, 0, 2), GOLDEN.outputs["text_merge"], 1e-5)  # a third is not exact
