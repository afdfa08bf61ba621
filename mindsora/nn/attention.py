"""Attention: one entry for dense and skiparse stages, which accelerated kernels replace."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.nn.skiparse import gather_rows, padded_length, scatter_rows

# Added to the score of an excluded key. Large enough that exp() is exactly 0, finite so that a row without any key
# (a sub-sequence of padding only, no text) gives a mean instead of NaN.
EXCLUDED = -1e30

# Scores that exist at one time; longer sequences take their queries in parts (2^30 float32 numbers are 4 GiB).
MAX_SCORES = 2**30


def prefix_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths (B,) int32 of tokeniser masks (B, L) or (B, 1, L), checked: each row is ones, then zeros.

    Raises:
        InputError: a row has a gap or no token at all; attention takes lengths and could not honour it.
    """
    mask = np.asarray(mask).reshape(mask.shape[0], mask.shape[-1]) != 0
    lengths = mask.sum(-1).astype(np.int32)
    for row, length in enumerate(lengths):
        if length == 0 or not mask[row, :length].all():
            raise InputError(
                f"text mask row {row} is {mask[row].astype(int).tolist()}; real tokens must stand first, "
                f"and there must be at least one (an empty prompt keeps its end token)"
            )
    return lengths


def skiparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_q: Tensor | None = None,
    text_k: Tensor | None = None,
    text_v: Tensor | None = None,
    *,
    sparse_n: int,
    group: bool,
    text_lengths: Tensor | None = None,
    video_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Each of n sub-sequences of the visual tokens attends to itself and to all text tokens.

    Args:
        q, k, v: visual tokens (B, N, H, D), normalised and rotated.
        text_q, text_k, text_v: text tokens (B, L, H, D). Without text_q text is only attended to.
        sparse_n: number of sub-sequences n; 1 is full attention.
        group: group skip (odd blocks) instead of single skip; see `mindsora.nn.skiparse`.
        text_lengths: (B,) real text tokens of each sample, always at the front; None: all L are real.
        video_mask: (B, N), non-zero for real visual tokens; None: all are real. (Padding that skiparse itself adds
            is known from N and needs no mask.)

    Returns:
        Visual output (B, N, H, D), and text output (B, L, H, D): the plain mean over the n sub-sequences, also over
        those that hold only padding (None without text_q). Scores are normalised in float32.
    """
    batch, tokens, heads, dim = q.shape
    n = sparse_n
    q = gather_rows(q * (1 / math.sqrt(dim)), n, group)                          # (B, n, H, R, D)
    k = gather_rows(k, n, group)
    v = gather_rows(v, n, group)
    rows = q.shape[3]
    text = 0 if text_k is None else text_k.shape[1]
    if text_k is not None:
        k = ops.concat((k, _repeat(text_k, n)), 3)                               # (B, n, H, R + L, D)
        v = ops.concat((v, _repeat(text_v, n)), 3)
    bias = _key_bias(batch, tokens, rows, text, n, group, text_lengths, video_mask)
    visual = scatter_rows(_attend(q, k, v, bias), tokens, group)                 # (B, N, H, D)
    if text_q is None:
        return visual, None
    words = _attend(_repeat(text_q * (1 / math.sqrt(dim)), n), k, v, bias)       # (B, n, H, L, D)
    return visual, _mean_over_copies(words).transpose(0, 2, 1, 3)


def _repeat(text, n):
    """One copy of the text per sub-sequence: (B, L, H, D) -> (B, n, H, L, D)."""
    batch, length, heads, dim = text.shape
    return text.transpose(0, 2, 1, 3).expand_dims(1).broadcast_to((batch, n, heads, length, dim))


def _mean_over_copies(x):
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
    q = q.reshape(-1, queries, dim)                                              # three axes: the fast MatMul
    k = k.reshape(-1, keys, dim)
    v = v.reshape(-1, keys, dim)
    step = max(1, MAX_SCORES // (q.shape[0] * keys))
    out = ()
    for start in range(0, queries, step):
        part = q[:, start : start + step] if step < queries else q
        scores = ops.BatchMatMul(transpose_b=True)(part, k).astype(ms.float32)   # (B n H, step, K)
        if bias is not None:
            scores = scores.reshape(batch, n, heads, -1, keys) + bias
        # On two axes: the sum inside softmax's gradient is 10 times slower on three.
        weights = ops.softmax(scores.reshape(-1, keys), -1).astype(v.dtype)
        out = out + (ops.BatchMatMul()(weights.reshape(batch * n * heads, -1, keys), v),)
    out = out[0] if len(out) == 1 else ops.concat(out, 1)
    return out.reshape(batch, n, heads, queries, dim)


def _key_bias(batch, tokens, rows, text, n, group, text_lengths, video_mask):
    """0 for real keys, EXCLUDED for others, (B or 1, n or 1, 1, 1, R + L); None where every key is real."""
    padded = padded_length(tokens, n) > tokens
    if video_mask is None and text_lengths is None and not padded:
        return None
    visual = ops.zeros((1, 1, 1, 1, rows), ms.float32)
    if video_mask is not None:  # its own path: the mask is dealt out like the tokens, skiparse padding being zero
        keep = gather_rows((video_mask != 0).astype(ms.float32).reshape(batch, tokens, 1, 1), n, group)
        visual = (1 - keep).reshape(batch, n, 1, 1, rows) * EXCLUDED
    elif padded:
        visual = _padding_bias(tokens, n, group)
    if text == 0:
        return visual
    words = ops.zeros((1, 1, 1, 1, text), ms.float32)
    if text_lengths is not None:
        absent = _positions(text) >= text_lengths.reshape(batch, 1)
        words = (absent.astype(ms.float32) * EXCLUDED).reshape(batch, 1, 1, 1, text)
    lead = (max(visual.shape[0], words.shape[0]), max(visual.shape[1], words.shape[1]), 1, 1)
    return ops.concat((visual.broadcast_to(lead + (rows,)), words.broadcast_to(lead + (text,))), 4)


@ops.constexpr
def _padding_bias(tokens, n, group):
    """EXCLUDED at skiparse padding, (1, n, 1, 1, R), made while the graph is traced."""
    index = np.arange(padded_length(tokens, n))
    index = index.reshape(-1, n, n).transpose(1, 0, 2) if group else index.reshape(-1, n).T
    return Tensor(np.where(index.reshape(1, n, 1, 1, -1) < tokens, 0, EXCLUDED).astype(np.float32))


@ops.constexpr
def _positions(length):
    return Tensor(np.arange(length, dtype=np.int32)[None])
