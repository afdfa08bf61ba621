"""Values and gradients of the AscendC operators' binding, with the host twin in place of the operators.

PyNative only: graph mode would need the operators themselves. Everything else of a graph (the gradient formulas, which
are stock operators) is compiled here too.
"""

import os
import re
from pathlib import Path

import kernel_oracles as oracle
import mindspore as ms
import numpy as np
import pytest
from ascendc_host import twin
from mindspore import Tensor
from mindspore.ops.operations import custom_ops
from test_ascend_kernels import permuted

from mindsora.errors import InputError
from mindsora.kernels import build, choice
from mindsora.kernels.ada_norm_modulate import ada_norm_modulate, gated_residual
from mindsora.kernels.ascend import custom, package
from mindsora.kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_grouped
from mindsora.kernels.skiparse_attention import skiparse_attention
from mindsora.kernels.skiparse_permute import skiparse_permute, skiparse_unpermute
from mindsora.nn.rope import rope_table, split_v1_5

TOLERANCE = 4e-3  # of the largest number: a few roundings to half


class TwinOperator:
    """Stands for `ops.Custom(name, ...)`: the same arguments, run on the twin."""

    def __init__(self, name, out_shape, out_dtype, func_type):
        assert func_type == "aot"
        self.name, self.out_shape = name, out_shape

    def __call__(self, *arguments):
        assert all(isinstance(a, Tensor) for a in arguments), "the eager path takes tensors only"
        arrays = [t.asnumpy() for t in arguments]
        shapes = self.out_shape(*(tuple(a.shape) for a in arrays))
        shapes = shapes if isinstance(shapes[0], tuple) else (shapes,)
        assert len(arguments) + len(shapes) <= 12 and len(arguments) <= 10, "more than the eager path takes"
        outputs = getattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower())(arrays)
        results = tuple(
            Tensor((np.zeros(1, np.float16) if o is None else o).reshape(s))
            for o, s in zip(outputs, shapes, strict=True)
        )
        return results[0] if len(results) == 1 else results

    def skiparse_permute(self, arrays):
        x, how = arrays
        inverse = how.ndim == 3
        row = x.dtype.itemsize * int(np.prod(x.shape[3 if inverse else 2 :]))
        out, _ = twin.run(
            "skiparse_permute",
            {"x": x},
            {"y": x.dtype.name},
            batch=x.shape[0],
            row_bytes=row,
            cores=1,
            tokens=how.shape[2] if inverse else x.shape[1],
            n=how.shape[0],
            group=how.shape[1] - 1,
            inverse=inverse,
        )
        return [out["y"]]

    def ada_norm_modulate(self, arrays):
        names = ("x", "branch", "gate", "shift", "scale", "weight", "bias")
        given = {name: a for name, a in zip(names, arrays[:7], strict=True) if a.shape != (1,)}
        gated, normed = "branch" in given, "shift" in given
        x = given["x"]
        outputs = {name: "float16" for name, wanted in (("h", gated), ("y", normed)) if wanted}
        out, _ = twin.run(
            "ada_norm_modulate",
            given,
            outputs,
            batch=x.shape[0],
            rows=x.shape[1],
            channels=x.shape[2],
            gated=gated,
            normed=normed,
            eps=float(arrays[7][0]),
            brain=0,
            cores=1,
        )
        return [out.get("h"), out.get("y")]

    def qk_norm_rope(self, arrays):
        x, text, weight, bias, cos, sin, skip, settings = arrays
        norm, t, y, x_, _ = settings
        eps = float(settings[4:].view(np.float32)[0])
        batch, tokens, heads, dim = x.shape
        length = text.shape[1] if text.ndim == 4 else 0
        inputs = {"x": x, "weight": weight, "bias": bias}
        if length:
            inputs["text_x"] = text
        if cos.ndim == 2:
            inputs |= {"cos": cos, "sin": sin}
        out, _ = twin.run(
            "qk_norm_rope",
            inputs,
            {"y": "float16"},
            batch=batch,
            tokens=tokens,
            text=length,
            heads=heads,
            dim=dim,
            n=skip.shape[0],
            group=skip.shape[1] - 1,
            norm=norm,
            rope=cos.ndim == 2,
            split_t=t,
            split_y=y,
            split_x=x_,
            eps=eps,
            brain=0,
            cores=1,
        )
        return [out["y"]]

    def skiparse_attention(self, arrays):
        names = ("q", "k", "v", "text_q", "text_k", "text_v", "lengths")
        outputs = {"out": "float16", "text_out": "float16", "lse": "float32", "text_parts": "float16"}
        length = arrays[3].shape[1] if arrays[3].ndim > 1 else 0
        skip = arrays[7].shape
        return self.attention(
            self.name, dict(zip(names, arrays[:7], strict=True)), outputs, length, n=skip[0], group=skip[1] - 1
        )

    def skiparse_attention_grad(self, arrays):
        names = ("q", "k", "v", "out", "d_out", "lse", "text_stack", "lengths")
        outputs = dict.fromkeys(("dq", "dk", "dv", "d_text"), "float16")
        how = arrays[7].shape
        length = arrays[6].shape[2] if arrays[6].ndim > 1 else 0
        settings = {"n": arrays[5].shape[2], "group": how[0] - 1, "deterministic": how[1] - 1}
        return self.attention(self.name, dict(zip(names, arrays, strict=True)), outputs, length, **settings)

    def attention(self, name, inputs, outputs, length, **settings):
        batch, tokens, heads, dim = inputs["q"].shape
        if not length:
            inputs = {name: a for name, a in inputs.items() if "text" not in name and name != "lengths"}
        out, _ = twin.run(
            re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(),
            inputs,
            {name: dtype for name, dtype in outputs.items() if length or "text" not in name},
            batch=batch,
            tokens=tokens,
            text=length,
            heads=heads,
            dim=dim,
            brain=0,
            cores=2,
            **settings,
        )
        return [out.get(name) for name in outputs]


@pytest.fixture(autouse=True)
def on_ascend(monkeypatch, tmp_path):
    """An Ascend machine with our package, as far as the choice of implementations goes."""
    for operator in choice.OPERATORS:
        header = tmp_path / "op_api" / "include" / f"aclnn_{operator}.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        header.touch()
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path))
    monkeypatch.setenv("MINDSORA_KERNELS", "ascend_custom")
    monkeypatch.setattr(choice, "device", lambda: "Ascend")
    monkeypatch.setattr(custom.ops, "Custom", TwinOperator)
    cells = (
        custom.permute,
        custom.unpermute,
        custom.norm_rope,
        custom.norm_rope_grouped,
        custom.ada_norm_modulate,
        custom.gated_residual,
        custom.attention,
    )
    for cell in cells:
        cell.cache_clear()
    yield
    for cell in cells:
        cell.cache_clear()


def halves(*shapes, seed=0):
    random = np.random.RandomState(seed)
    return [random.standard_normal(shape).astype(np.float16) for shape in shapes]


def check(function, arrays, expected, direction, gradients):
    """The value of a function of Tensors, and its gradients along `direction` with respect to all of them."""
    tensors = [Tensor(a) for a in arrays]
    assert_near(function(*tensors), expected)
    weights = Tensor(direction.astype(np.float32))
    gradient = ms.grad(lambda *x: (function(*x).astype(ms.float32) * weights).sum(), tuple(range(len(tensors))))
    actual = gradient(*tensors)
    for one, exact in zip((actual,) if isinstance(actual, Tensor) else actual, gradients, strict=True):
        assert_near(one, exact)


def assert_near(actual, exact):
    actual = actual.asnumpy().astype(np.float64)
    np.testing.assert_allclose(actual, exact.reshape(actual.shape), rtol=0, atol=TOLERANCE * np.abs(exact).max())


@pytest.mark.parametrize("n, group", [(2, True), (4, False)])
def test_permute(n, group):
    (x,) = halves((2, 21, 2, 16))
    rows = permuted(x, n, group)
    (d,) = halves(rows.shape, seed=1)
    back = np.concatenate([d[:, s, : len(t)] for s, t in enumerate(oracle.members(21, n, group))], 1)
    back = back[:, np.argsort(np.concatenate(oracle.members(21, n, group)))]
    check(lambda x: skiparse_permute(x, sparse_n=n, group=group), [x], rows, d, [back])
    check(lambda y: skiparse_unpermute(y, tokens=21, group=group), [rows], x, x, [rows])


def test_ada_norm_modulate():
    x, update, d = halves((2, 5, 64), (2, 5, 64), (2, 5, 64))
    rows = [a.astype(np.float32) for a in halves((2, 1, 64), (2, 1, 64), (64,), (64,), seed=1)]
    inputs = [x, *rows]
    exact = [a.astype(np.float64) for a in inputs]
    check(
        lambda *a: ada_norm_modulate(*a, eps=1e-6),
        inputs,
        oracle.ada_norm_modulate(*exact),
        d,
        oracle.ada_norm_modulate(*exact, grad=d.astype(np.float64)),
    )
    wide, gate, d = (a.astype(np.float64) for a in (update, rows[0], d))
    check(
        gated_residual,
        [x, rows[0], update],
        x.astype(np.float64) + gate * wide,
        d,
        [d, (d * wide).sum(1, keepdims=True), d * gate],
    )


@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
def test_qk_norm_rope(norm):
    grid, dim, split = (2, 3, 2), 128, split_v1_5(128)
    x, text, d = halves((2, 12, 2, dim), (2, 3, 2, dim), (2, 12, 2, dim))
    weight, bias, text_weight, text_bias = (a.astype(np.float32) for a in halves(*[(dim,)] * 4, seed=1))
    rope = tuple(Tensor(t[None, :, None]) for t in rope_table(grid, split))
    settings = {"norm": norm, "split": split, "eps": 1e-6}
    exact = [a.astype(np.float64) for a in (x, weight, bias)]
    check(
        lambda *a: qk_norm_rope(*a, rope, **settings),
        [x, weight, bias],
        oracle.qk_norm_rope(*exact, norm, grid, split),
        d,
        oracle.qk_norm_rope(*exact, norm, grid, split, grad=d.astype(np.float64)),
    )

    n, group = 2, True
    words = [a.astype(np.float64) for a in (text, text_weight, text_bias)]
    rows = permuted(oracle.qk_norm_rope(*exact, norm, grid, split), n, group)
    behind = oracle.qk_norm_rope(*words, norm, None, split)
    expected = np.concatenate([rows, np.broadcast_to(behind[:, None], (2, n, 3, 2, dim))], 2)
    (e,) = halves(expected.shape, seed=2)
    e = e.astype(np.float64)
    visual = np.zeros(x.shape)
    for s, tokens in enumerate(oracle.members(12, n, group)):
        visual[:, tokens] = e[:, s, : len(tokens)]
    gradients = (
        *oracle.qk_norm_rope(*exact, norm, grid, split, grad=visual),
        *oracle.qk_norm_rope(*words, norm, None, split, grad=e[:, :, rows.shape[2] :].sum(1)),
    )
    check(
        lambda x, w, b, t, tw, tb: qk_norm_rope_grouped(x, w, b, rope, t, tw, tb, sparse_n=n, group=group, **settings),
        [x, weight, bias, text, text_weight, text_bias],
        expected,
        e,
        gradients,
    )


@pytest.mark.parametrize("text, text_queries, deterministic", [(5, True, "OFF"), (5, False, "ON"), (0, False, "OFF")])
def test_attention(text, text_queries, deterministic, monkeypatch):
    monkeypatch.setattr(
        custom.ms, "get_context", lambda name: {"deterministic": deterministic, "device_target": "CPU"}[name]
    )
    video = (2, 21, 2, 64)
    arrays = halves(*[video] * 3, *[(2, text, 2, 64)] * 3)
    (d,) = halves(video, seed=1)
    lengths = np.array([3, 5], np.int32) if text else None
    used = 6 if text_queries else 3 if not text else 5
    chosen = arrays if text_queries else arrays[:3] + arrays[4:] if text else arrays[:3]

    def attention(q, k, v, *words):
        words = words if text_queries or not text else (None, *words)
        given = None if lengths is None else Tensor(lengths)
        visual, _ = skiparse_attention(q, k, v, *words, sparse_n=2, group=True, text_lengths=given)
        return visual

    exact = [a.astype(np.float64) for a in arrays]
    if not text_queries:
        exact[3] = None
    if not text:
        exact[3:] = [None] * 3
    lengths64 = lengths
    value = oracle.skiparse_attention(*exact, 2, True, lengths64)[0]
    zero = np.zeros((2, text, 2, 64))
    gradients = oracle.skiparse_attention(*exact, 2, True, lengths64, grads=[d.astype(np.float64), zero])
    gradients = [g for i, g in enumerate(gradients) if i < 3 or (text and (i > 3 or text_queries))]
    assert len(gradients) == used
    tensors = [Tensor(a) for a in chosen]
    assert_near(attention(*tensors), value)
    weights = Tensor(d.astype(np.float32))
    gradient = ms.grad(lambda *x: (attention(*x).astype(ms.float32) * weights).sum(), tuple(range(used)))
    for actual, expected in zip(gradient(*tensors), gradients, strict=True):
        if expected.any():
            assert_near(actual, expected)
        else:
            assert not actual.asnumpy().any()


@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
def test_gradient_formulas_in_a_graph(norm):
    """The stock operators that stand for missing gradient operators, compiled and not."""
    split = split_v1_5(32)
    x, d, weight = (Tensor(a) for a in halves((2, 12, 2, 32), (2, 12, 2, 32), (32,)))
    cos, sin = (Tensor(t[None, :, None]) for t in rope_table((2, 3, 2), split))
    cell = custom.norm_rope(norm, split, 1e-6)
    inputs = x, weight.astype(ms.float32), cos, sin, d
    for a, b in zip(cell.gradients(*inputs), ms.jit(cell.gradients)(*inputs), strict=True):
        assert_near(b, a.asnumpy())
    x, d = x.reshape(2, 24, 32), d.reshape(2, 24, 32)
    row, vector = Tensor(np.ones((2, 1, 32), np.float32)), weight.astype(ms.float32)
    for bprop, inputs in (
        (custom.ada_norm_modulate(1e-6).bprop, (x, row, row, vector, vector, x, d)),
        (custom.gated_residual().bprop, (x, row, x, x, d)),
    ):
        for a, b in zip(bprop(*inputs), ms.jit(bprop)(*inputs), strict=True):
            assert_near(b, a.asnumpy())


def test_what_an_operator_does_not_take_goes_to_the_definition(monkeypatch):
    monkeypatch.delenv("MINDSORA_KERNELS")
    (x,) = halves((1, 8, 3))
    np.testing.assert_array_equal(skiparse_permute(Tensor(x), sparse_n=2, group=False).asnumpy(), permuted(x, 2, False))


def test_choice_on_ascend(monkeypatch):
    """With the package, our vector operators are chosen; attention stays CANN's until ours has been measured."""
    monkeypatch.delenv("MINDSORA_KERNELS")
    assert choice.choose("qk_norm_rope") == "ascend_custom" and choice.choose("skiparse_attention") == "ascend_builtin"
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", "")
    assert not package.installed("qk_norm_rope") and choice.choose("qk_norm_rope") == "ascend_builtin"
    assert "recipes/ascend_kernels" in choice.obstacle("skiparse_attention", "ascend_custom")


@pytest.mark.parametrize("before", [None, "/graphs"])
def test_callbacks_are_kept_in_the_users_cache(monkeypatch, tmp_path, before):
    """MindSpore's own place is the working directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MS_COMPILER_CACHE_PATH", raising=False)
    if before:
        monkeypatch.setenv("MS_COMPILER_CACHE_PATH", before)
    monkeypatch.setattr(custom.ops, "Custom", lambda *_: Path(custom_ops._get_cache_path()))
    assert custom.operator("QkNormRope", None, None) == tmp_path / "mindsora" / "kernels" / "ascend"
    assert os.environ.get("MS_COMPILER_CACHE_PATH") == before


def test_callbacks_without_a_cache_that_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path))
    assert build.writable_folder().parent == tmp_path
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        build.writable_folder()
