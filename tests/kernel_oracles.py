"""The operators of `mindsora.kernels` in NumPy, with explicit gradients, in any dtype.

float64 gives the reference numbers; float16 is the plain half-precision computation that ours is measured against.
Index sets replace reshapes and there is no padding, so the oracles are independent of the code under test.
"""

import numpy as np


def members(tokens, n, group):
    """The tokens of every sub-sequence."""
    i = np.arange(tokens)
    return [i[(i // n % n if group else i % n) == s] for s in range(n)]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def skiparse_attention(q, k, v, text_q, text_k, text_v, n, group, lengths=None, mask=None, grads=None):
    """Visual and text output (None where there are no text queries).

    grads: gradients of both outputs; then the result is the gradients of all six inputs instead.
    """
    dtype, scale = q.dtype, q.dtype.type(1 / np.sqrt(q.shape[-1]))
    length = 0 if text_k is None else text_k.shape[1]
    empty = np.zeros((q.shape[0], 0) + q.shape[2:], dtype)
    asks = text_q is not None
    inputs = [empty if x is None else x for x in (q, k, v, text_q, text_k, text_v)]
    out, text_out = np.zeros_like(q), np.zeros_like(inputs[3])
    to = [np.zeros_like(x) for x in inputs]
    for b in range(q.shape[0]):
        words = length if lengths is None else lengths[b]
        for rows in members(q.shape[1], n, group):
            keys = rows if mask is None else rows[mask[b, rows] != 0]
            x = np.concatenate([q[b, rows], inputs[3][b]]).swapaxes(0, 1) * scale  # (H, queries, D)
            y = np.concatenate([k[b, keys], inputs[4][b, :words]]).swapaxes(0, 1)  # (H, keys, D)
            z = np.concatenate([v[b, keys], inputs[5][b, :words]]).swapaxes(0, 1)
            if y.shape[1] == 0:
                continue  # nothing to attend to: zero
            p = softmax(x @ y.swapaxes(1, 2))
            if grads is None:
                part = (p @ z).swapaxes(0, 1)
                out[b, rows] = part[: len(rows)]
                text_out[b] += part[len(rows) :] / dtype.type(n)
                continue
            text_grad = grads[1][b] / dtype.type(n) if asks else empty[b]
            g = np.concatenate([grads[0][b, rows], text_grad]).swapaxes(0, 1)
            dp = g @ z.swapaxes(1, 2)
            ds = p * (dp - (dp * p).sum(-1, keepdims=True))
            dx, dy, dz = (a.swapaxes(0, 1) for a in (ds @ y * scale, ds.swapaxes(1, 2) @ x, p.swapaxes(1, 2) @ g))
            to[0][b, rows] = dx[: len(rows)]
            to[3][b] += dx[len(rows) :]
            to[1][b, keys], to[2][b, keys] = dy[: len(keys)], dz[: len(keys)]
            to[4][b, :words] += dy[len(keys) :]
            to[5][b, :words] += dz[len(keys) :]
    if grads is not None:
        return to
    return out, text_out if asks else None


def normalise(x, centre, eps):
    x = x - x.mean(-1, keepdims=True) if centre else x
    factor = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps))
    return x * factor, factor


def normalise_grad(y, factor, g, centre):
    g = g - y * (g * y).mean(-1, keepdims=True) - (g.mean(-1, keepdims=True) if centre else 0)
    return g * factor


def rotate(x, grid, split, back=False):
    """x: (B, N, H, D); the halves of each axis' slice are turned by position / 10000^(2k / width)."""
    positions = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    out, start = [], 0
    for axis, width in enumerate(split):
        a, b = np.split(x[..., start : start + width], 2, -1)
        angle = positions[:, axis, None] * 10000.0 ** (-2 * np.arange(width // 2) / width)
        cos, sin = np.cos(angle)[:, None].astype(x.dtype), np.sin(angle)[:, None].astype(x.dtype)
        sin = -sin if back else sin
        out += [a * cos - b * sin, b * cos + a * sin]
        start += width
    return np.concatenate(out, -1)


def qk_norm_rope(x, weight, bias, norm, grid, split, eps=1e-6, grad=None):
    """The result, or with `grad` the gradients by x, weight and bias. grid None: no position."""
    y, factor = (x, 1) if norm == "none" else normalise(x, norm == "layer", eps)
    if grad is None:
        h = y * weight + bias
        return h if grid is None else rotate(h, grid, split)
    g = grad if grid is None else rotate(grad, grid, split, back=True)
    dx = g * weight if norm == "none" else normalise_grad(y, factor, g * weight, norm == "layer")
    return dx, (g * y).sum((0, 1, 2)), g.sum((0, 1, 2))


def ada_norm_modulate(x, shift, scale, weight, bias, eps=1e-6, grad=None):
    """The result, or with `grad` the gradients by all five."""
    y, factor = normalise(x, True, eps)
    h = y * weight + bias
    if grad is None:
        return h * (1 + scale) + shift
    g = grad * (1 + scale)
    dx = normalise_grad(y, factor, g * weight, True)
    return dx, grad.sum(1, keepdims=True), (grad * h).sum(1, keepdims=True), (g * y).sum((0, 1)), g.sum((0, 1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def row_norm(x, weight, bias, norm, silu, eps=1e-6, grad=None):
    """The result, or with `grad` the gradients by all three."""
    y, factor = normalise(x, norm == "layer", eps)
    h = y * weight + bias
    s = sigmoid(h)
    if grad is None:
        return h * s if silu else h
    g = grad * s * (1 + h * (1 - s)) if silu else grad
    axes = tuple(range(x.ndim - 1))
    return normalise_grad(y, factor, g * weight, norm == "layer"), (g * y).sum(axes), g.sum(axes)


def gelu_tanh(x, gate=1.0, grad=None):
    """The result, or with `grad` the gradients by x and gate."""
    z, slope = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3), np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    share = (1 + np.tanh(z)) / 2
    if grad is None:
        return x * share * gate
    return grad * gate * (share + x * (1 - np.tanh(z) ** 2) / 2 * slope), grad * x * share
