"""Skiparse attention in plain MindSpore: the definition of the result, and the implementation of last resort."""

import math

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.kernels.skiparse_permute.reference import padded_length, permute, unpermute

# Added to the score of an excluded key. Large enough that exp() is exactly 0, finite so that a row without any key does
# not become NaN; such a row is set to zero afterwards.
EXCLUDED = -1e30

# Upper limit of scores in memory; longer sequences process their queries in parts (2^30 float32 numbers are 4 GiB).
MAX_SCORES = 2**30


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_q: Tensor | None,
    text_k: Tensor | None,
    text_v: Tensor | None,
    *,
    sparse_n: int,
    group: bool,
    text_lengths: Tensor | None,
    video_mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """See `mindsora.kernels.skiparse_attention.skiparse_attention`. Scores are normalised in float32."""
    batch, tokens, _, dim = q.shape
    n = sparse_n
    q = _heads_first(permute(q * (1 / math.sqrt(dim)), sparse_n=n, group=group))  # (B, n, H, R, D)
    k = _heads_first(permute(k, sparse_n=n, group=group))
    v = _heads_first(permute(v, sparse_n=n, group=group))
    if text_k is not None:
        k = ops.concat((k, repeat(text_k, n)), 3)  # (B, n, H, R + L, D)
        v = ops.concat((v, repeat(text_v, n)), 3)
    bias = key_bias(batch, tokens, text_k, n, group, text_lengths, video_mask)
    visual = _attend(q, k, v, bias).transpose(0, 1, 3, 2, 4)  # (B, n, R, H, D)
    visual = unpermute(visual, tokens=tokens, group=group)  # (B, N, H, D)
    if text_q is None:
        return visual, None
    text_out = _attend(repeat(text_q * (1 / math.sqrt(dim)), n), k, v, bias)  # (B, n, H, L, D)
    return visual, mean_over_copies(text_out).transpose(0, 2, 1, 3)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
    """See `mindsora.kernels.skiparse_attention.cross_attention`. Scores are normalised in float32."""
    batch, tokens, heads, dim = q.shape
    length = k.shape[1]
    q = repeat(q * (1 / math.sqrt(dim)), 1)  # (B, 1, H, N, D)
    bias = None if lengths is None else text_key_bias(length, lengths).reshape(batch, 1, 1, 1, length)
    out = _attend(q, repeat(k, 1), repeat(v, 1), bias)
    return out.reshape(batch, heads, tokens, dim).transpose(0, 2, 1, 3)


def _heads_first(x):
    """(B, n, R, H, D) -> (B, n, H, R, D)."""
    return x.transpose(0, 1, 3, 2, 4)


def repeat(text: Tensor, n: int) -> Tensor:
    """One copy of the text per sub-sequence: (B, L, H, D) -> (B, n, H, L, D)."""
    batch, length, heads, dim = text.shape
    return text.transpose(0, 2, 1, 3).expand_dims(1).broadcast_to((batch, n, heads, length, dim))


def mean_over_copies(x: Tensor) -> Tensor:
    """(B, n, H, L, D) -> (B, H, L, D), as a product with 1/n: reductions over an inner axis are slow on CPU."""
    batch, n, heads, length, dim = x.shape
    if n == 1:
        return x.reshape(batch, heads, length, dim)
    weights = ops.full((batch, 1, n), 1 / n, dtype=x.dtype)
    return ops.BatchMatMul()(weights, x.reshape(batch, n, -1)).reshape(batch, heads, length, dim)


def _attend(q, k, v, bias):
    """softmax(q k^T + bias) v. q: (B, n, H, Q, D); k, v: (B, n, H, K, D); bias: (B or 1, n or 1, 1, 1, K) or None."""
    batch, n, heads, queries, dim = q.shape
    keys = k.shape[3]
    q = q.reshape(-1, queries, dim)  # three axes: the fast MatMul
    k = k.reshape(-1, keys, dim)
    v = v.reshape(-1, keys, dim)
    step = max(1, MAX_SCORES // (q.shape[0] * keys))
    out = ()
    for start in range(0, queries, step):
        part = q[:, start : start + step] if step < queries else q
        scores = ops.BatchMatMul(transpose_b=True)(part, k).astype(ms.float32)  # (B n H, step, K)
        if bias is not None:
            scores = scores.reshape(batch, n, heads, -1, keys) + bias
        # On two axes: the sum inside softmax's gradient is 10 times slower on three.
        weights = ops.softmax(scores.reshape(-1, keys), -1).astype(v.dtype)
        out = out + (ops.BatchMatMul()(weights.reshape(batch * n * heads, -1, keys), v),)
    out = out[0] if len(out) == 1 else ops.concat(out, 1)
    out = out.reshape(batch, n, heads, queries, dim)
    if bias is None:
        return out
    has_key = bias.max(-1, keepdims=True) > EXCLUDED / 2  # (B or 1, n or 1, 1, 1, 1)
    return ops.where(has_key, out, ops.zeros_like(out))


def key_bias(batch, tokens, text_k, n, group, text_lengths, video_mask) -> Tensor | None:
    """0 for real keys, EXCLUDED for others, (B or 1, n, 1, 1, R + L); None where every key is real."""
    if video_mask is None and text_lengths is None and padded_length(tokens, n) == tokens:
        return None
    if video_mask is None:
        keep = ops.ones((1, tokens), ms.float32)
    else:
        keep = (video_mask != 0).astype(ms.float32)
    visual = (1 - permute(keep, sparse_n=n, group=group)) * EXCLUDED  # padding rows are zero: excluded
    if text_k is None:
        return visual.reshape(visual.shape[0], n, 1, 1, -1)
    text_bias = ops.zeros((1, text_k.shape[1]), ms.float32)
    if text_lengths is not None:
        text_bias = text_key_bias(text_k.shape[1], text_lengths)
    lead = max(visual.shape[0], text_bias.shape[0])
    visual = visual.broadcast_to((lead, n, visual.shape[2]))
    text_bias = text_bias.expand_dims(1).broadcast_to((lead, n, text_bias.shape[1]))
    return ops.concat((visual, text_bias), 2).reshape(lead, n, 1, 1, -1)


def text_key_bias(length: int, text_lengths: Tensor) -> Tensor:
    """0 for real text tokens, EXCLUDED for the padding after them, (B, L)."""
    absent = ops.arange(length).reshape(1, -1) >= text_lengths.reshape(-1, 1)
    return absent.astype(ms.float32) * EXCLUDED
