"""The AscendC operators as differentiable Cells with the signatures of the CPU operators, through `ops.Custom`.

Not measured on Ascend. On CPU the tests run these Cells with the host twin in place of the operators.

MindSpore finds an operator by its name among the installed packages. An operator takes at most ten tensors and has at
most twelve inputs and outputs: MindSpore's eager path takes no more, takes no numbers, and orders the inputs by their
names as strings. Numbers that determine shapes travel as the shapes of tensors, as on CPU (shape inference sees nothing
else); other numbers travel in a tensor that the kernel reads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels import forms
from mindsora.kernels.build import lock, writable_folder
from mindsora.kernels.placeholder import nothing
from mindsora.kernels.qk_norm_rope.reference import NORMS
from mindsora.kernels.qk_norm_rope.rotary import RoPE3D
from mindsora.kernels.rows import NormaliseRows
from mindsora.kernels.skiparse_permute.cpu import skip
from mindsora.kernels.skiparse_permute.reference import padded_length


def operator(name: str, shapes, dtypes) -> ops.Custom:
    """Return an operator of our package.

    MindSpore generates and compiles a callback for it in the folder that MS_COMPILER_CACHE_PATH names, by default
    `custom_kernel_meta` in the working directory. This function sets the variable to the user's cache, so that a graph
    from a compile cache finds the callback again.
    """
    home = writable_folder() / "ascend"
    home.mkdir(mode=0o700, exist_ok=True)
    with lock(home / "callbacks.lock"), _compiler_cache(home):
        return ops.Custom(name, shapes, dtypes, "aot")


@contextmanager
def _compiler_cache(folder: Path) -> Iterator[None]:
    """Set MS_COMPILER_CACHE_PATH to the folder inside the context."""
    before = os.environ.get("MS_COMPILER_CACHE_PATH")
    os.environ["MS_COMPILER_CACHE_PATH"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MS_COMPILER_CACHE_PATH"]
        if before is not None:
            os.environ["MS_COMPILER_CACHE_PATH"] = before


class Permute(nn.Cell):
    """(B, N, ...) -> (B, n, R, ...); the gradient is the inverse."""

    def __init__(self, sparse_n: int, group: bool, tokens: int):
        super().__init__()
        self.there = operator("SkiparsePermute", _permuted, _first)
        self.skip = skip(sparse_n, group)
        self.back = Tensor(
            np.zeros((sparse_n, 1 + group, tokens), np.int8)
        )  # three axes select the inverse, to N tokens

    def construct(self, x: Tensor) -> Tensor:
        return self.there(x, self.skip)

    def bprop(self, x, out, dout):
        return (self.there(dout, self.back),)


class Unpermute(Permute):
    """(B, n, R, ...) -> (B, N, ...); the gradient is `Permute`."""

    def construct(self, x: Tensor) -> Tensor:
        return self.there(x, self.back)

    def bprop(self, x, out, dout):
        return (self.there(dout, self.skip),)


class NormRope(nn.Cell):
    """x (B, N, H, D), weight and bias (D,) float32, cos and sin (1, N, 1, D) float32 or placeholders of one axis.

    The gradient is taken with stock operators.
    """

    def __init__(self, norm: str, split: tuple[int, int, int], eps: float):
        super().__init__()
        self.norm = NORMS.index(norm)
        # One int tensor holds all numbers, so eps is stored as its bits.
        self.settings = Tensor(np.array([self.norm, *split, np.float32(eps).view(np.int32)], np.int32))
        self.skip = skip(1, False)
        self.forward = operator("QkNormRope", _grouped_shape, _first)
        self.normalise = NormaliseRows(eps, centre=norm == "layer")
        self.rotate = RoPE3D(split)

    def construct(self, x, weight, bias, cos, sin):
        none = nothing("float32").astype(x.dtype)
        weights, biases = forms.stack((weight, weight)), forms.stack((bias, bias))
        return self.run(x, none, weights, biases, cos, sin, self.skip).reshape(x.shape)

    def bprop(self, x, weight, bias, cos, sin, out, dout):
        dx, dw, db = self.gradients(x, weight, cos, sin, dout)
        return dx, dw, db, ops.zeros_like(cos), ops.zeros_like(sin)

    def run(self, x, text, weight, bias, cos, sin, skip):
        if cos.ndim > 1:
            cos, sin = cos.reshape(-1, x.shape[3]), sin.reshape(-1, x.shape[3])
        return self.forward(x, text, weight, bias, cos, sin, skip, self.settings)

    def gradients(self, x, weight, cos, sin, dout):
        """Gradients with respect to x, weight and bias."""
        if cos.ndim > 1:
            dout = self.rotate.bprop(dout.astype(ms.float32), cos, sin, dout, dout.astype(ms.float32))[0]
        g = dout.astype(ms.float32).reshape(-1, x.shape[3])  # (B N H, D)
        rows = x.astype(ms.float32).reshape(g.shape)
        y, factor = self.normalise(rows) if self.norm else (rows, rows)
        dx = g * weight
        if self.norm:
            dx = self.normalise.bprop(rows, (y, factor), (dx, factor))[0]
        return dx.astype(x.dtype).reshape(x.shape), (g * y).sum(0), g.sum(0)


class NormRopeGrouped(NormRope):
    """`NormRope` stored as sub-sequences, each followed by the text rows (B, L, H, D), which have their own norm."""

    def __init__(self, norm: str, split: tuple[int, int, int], eps: float, sparse_n: int, group: bool):
        super().__init__(norm, split, eps)
        self.sparse_n, self.group = sparse_n, group
        self.skip = skip(sparse_n, group)

    def construct(self, x, weight, bias, cos, sin, text, text_weight, text_bias):
        weights, biases = forms.stack((weight, text_weight)), forms.stack((bias, text_bias))
        return self.run(x, text.astype(x.dtype), weights, biases, cos, sin, self.skip)

    def bprop(self, x, weight, bias, cos, sin, text, text_weight, text_bias, out, dout):
        rows = padded_length(x.shape[1], self.sparse_n) // self.sparse_n
        visual = unpermute(self.sparse_n, self.group, x.shape[1])(dout[:, :, :rows])
        dx, dw, db = self.gradients(x, weight, cos, sin, visual)
        visual = dx, dw, db, ops.zeros_like(cos), ops.zeros_like(sin)
        if text.ndim == 1:
            return visual + (ops.zeros_like(text), ops.zeros_like(text_weight), ops.zeros_like(text_bias))
        none = nothing("float32")
        text_grad = dout[:, :, rows:].astype(ms.float32).sum(1)
        return visual + self.gradients(text, text_weight, none, none, text_grad)


class AdaNormModulate(nn.Cell):
    """x (B, S, C), shift and scale (B, 1, C), weight and bias (C,), all but x float32.

    The gradient is taken with stock operators.
    """

    def __init__(self, eps: float):
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = operator("AdaNormModulate", _ada_norm_shapes, _two_firsts)
        self.normalise = NormaliseRows(eps, centre=True)

    def construct(self, x, shift, scale, weight, bias):
        none = nothing("float32")
        return self.forward(x, none.astype(x.dtype), none, shift, scale, weight, bias, self.eps)[1]

    def bprop(self, x, shift, scale, weight, bias, out, dout):
        rows = x.astype(ms.float32).reshape(-1, x.shape[2])
        y, factor = self.normalise(rows)
        d = dout.astype(ms.float32)
        g = (d * (1 + scale)).reshape(rows.shape)
        dx = self.normalise.bprop(rows, (y, factor), (g * weight, factor))[0]
        h = (y * weight + bias).reshape(x.shape)
        return (
            dx.astype(x.dtype).reshape(x.shape),
            d.sum(1, keepdims=True),
            (d * h).sum(1, keepdims=True),
            (g * y).sum(0),
            g.sum(0),
        )


class GatedResidual(nn.Cell):
    """x + gate * update: x, update (B, S, C), gate (B, 1, C) float32."""

    def __init__(self):
        super().__init__()
        self.forward = operator("AdaNormModulate", _ada_norm_shapes, _two_firsts)

    def construct(self, x, gate, update):
        none = nothing("float32")
        return self.forward(x, update, gate, none, none, none, none, none)[0]

    def bprop(self, x, gate, update, out, dout):
        d = dout.astype(ms.float32)
        return dout, (d * update.astype(ms.float32)).sum(1, keepdims=True), (d * gate).astype(update.dtype)


class Attention(nn.Cell):
    """q, k, v (B, N, H, D), text (B, L, H, D) or placeholders of one axis, lengths (B,) int32 -> out, text_out, ...

    Gradients are deterministic under `mindspore.set_deterministic`.
    """

    def __init__(self, sparse_n: int, group: bool):
        super().__init__()
        self.skip = skip(sparse_n, group)
        self.switches = (1 + group, 1 + (ms.get_context("deterministic") == "ON"))
        self.forward = operator("SkiparseAttention", _attention_shapes, _attention_types)
        self.backward = operator("SkiparseAttentionGrad", _gradient_shapes, _four_firsts)

    def construct(self, q, k, v, text_q, text_k, text_v, lengths):
        # out, text_out, log-sum-exp, and the text output of every sub-sequence, which the gradient needs again
        return self.forward(q, k, v, text_q, text_k, text_v, lengths, self.skip)

    def bprop(self, q, k, v, text_q, text_k, text_v, lengths, out, dout):
        text = text_q
        if text_q.ndim > 1:  # (n + 4, B, L, H, D)
            text = ops.concat((out[3], ops.stack((text_q, text_k, text_v, dout[1]))))  # a bprop cannot infer mint.stack
        how = lengths.broadcast_to((*self.switches, lengths.shape[0]))
        dq, dk, dv, text_grads = self.backward(q, k, v, out[0], dout[0], out[2], text, how)
        if text_q.ndim > 1:
            return dq, dk, dv, text_grads[0], text_grads[1], text_grads[2], ops.zeros_like(lengths)
        none = ops.zeros_like(text_q)
        return dq, dk, dv, none, none, none, ops.zeros_like(lengths)


def attention_with_text(q, k, v, text_q, text_k, text_v, lengths, *, sparse_n: int, group: bool):
    """`Attention` on the arguments of `skiparse_attention`, with placeholders for None. -> visual, text or None."""
    batch = q.shape[0]
    if text_k is None:
        none = nothing("float32").astype(q.dtype)
        return attention(sparse_n, group)(q, k, v, none, none, none, ops.zeros((batch,), ms.int32))[0], None
    if lengths is None:
        lengths = ops.full((batch,), text_k.shape[1], dtype=ms.int32)
    text_queries = text_k if text_q is None else text_q  # without text queries: any value, the result is dropped
    out = attention(sparse_n, group)(q, k, v, text_queries, text_k, text_v, lengths.astype(ms.int32))
    return out[0], None if text_q is None else out[1]


permute = cache(Permute)
unpermute = cache(Unpermute)
norm_rope = cache(NormRope)
norm_rope_grouped = cache(NormRopeGrouped)
ada_norm_modulate = cache(AdaNormModulate)
gated_residual = cache(GatedResidual)
attention = cache(Attention)


def _first(x, *_):
    return x


def _two_firsts(x, *_):
    return x, x


def _four_firsts(x, *_):
    return x, x, x, x


def _permuted(x, how):
    if len(how) == 3:
        return (x[0], how[2]) + tuple(x[3:])
    return (x[0], how[0], padded_length(x[1], how[0]) // how[0]) + tuple(x[2:])


def _grouped_shape(x, text, weight, bias, cos, sin, skip, settings):
    batch, tokens, heads, dim = x
    length = text[1] if len(text) == 4 else 0
    return batch, skip[0], padded_length(tokens, skip[0]) // skip[0] + length, heads, dim


def _ada_norm_shapes(x, branch, gate, shift, *_):
    return x if len(branch) > 1 else (1,), x if len(shift) > 1 else (1,)


def _attention_shapes(q, k, v, text_q, text_k, text_v, lengths, skip):
    batch, tokens, heads, dim = q
    n = skip[0]
    rows = padded_length(tokens, n) // n
    if len(text_q) == 1:
        return q, text_q, (batch, heads, n, rows), (1,)
    return q, text_q, (batch, heads, n, rows + text_q[1]), (n, batch, text_q[1], heads, dim)


def _gradient_shapes(q, k, v, out, dout, lse, text, how):
    return q, k, v, (3, *text[1:]) if len(text) > 1 else (1,)


def _attention_types(q, *_):
    return q, q, ms.float32, q
