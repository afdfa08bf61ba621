"""Skiparse attention on Ascend through CANN's flash attention, on the grouped layout without a mask.

CANN takes the ends of segments from the host. A pipeline computes them there, once per generation (`segment_ends`);
without them they are computed from Tensors and read back.

Not measured on Ascend. On CPU the tests run it with a stand-in for `ops.flash_attention_score`.
"""

import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.kernels import forms
from mindsora.kernels.skiparse_permute import skiparse_permute, skiparse_unpermute
from mindsora.kernels.skiparse_permute.reference import padded_length, permute, real_rows

# The rows of a sub-sequence have the order
#     pad, absent text | real text, real video | absent video, pad
# (text reversed), so that its real rows form one segment of the variable-length form, and the absent rows form segments
# of their own, which attend to themselves only. A `pad` row keeps such a segment from being empty, because the built-in
# operator refuses empty segments.


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
    segments: tuple[int, ...] | None,
) -> tuple[Tensor, Tensor | None]:
    """See `mindsora.kernels.skiparse_attention.skiparse_attention`."""
    batch, tokens, heads, dim = q.shape
    text = 0 if text_k is None else text_k.shape[1]
    some_video = video_mask is not None or padded_length(tokens, sparse_n) > tokens
    some_text = text > 0 and text_lengths is not None
    order = None if video_mask is None else _real_first(video_mask, sparse_n, group)
    text_queries = text_k if text_q is None else text_q  # without text queries: any value, the result is dropped
    q = _grouped(q, text_queries, sparse_n, group, order, some_text, some_video)  # (B, n, S, H, D)
    k = _grouped(k, text_k, sparse_n, group, order, some_text, some_video)
    v = _grouped(v, text_v, sparse_n, group, order, some_text, some_video)
    rows = q.shape[2]
    if some_video or some_text:
        if some_text and segments is not None:
            ends = segments
        elif some_text or video_mask is not None:
            ends = _read_ends(batch, tokens, text, rows, sparse_n, group, text_lengths, video_mask, some_video)
        else:
            ends = _constant_ends(batch, tokens, text, sparse_n, group)
        out = ops.flash_attention_score(
            q.reshape(-1, heads, dim),
            k.reshape(-1, heads, dim),
            v.reshape(-1, heads, dim),
            heads,
            actual_seq_qlen=ends,
            actual_seq_kvlen=ends,
            scalar_value=1 / math.sqrt(dim),
            input_layout="TND",
        )
    else:
        shape = (batch * sparse_n, rows, heads, dim)
        out = ops.flash_attention_score(
            q.reshape(shape),
            k.reshape(shape),
            v.reshape(shape),
            heads,
            scalar_value=1 / math.sqrt(dim),
            input_layout="BSND",
        )
    out = out.reshape(batch, sparse_n, rows, heads, dim)
    first = text + (1 if some_text else 0)
    visual = forms.narrow(out, 2, first, padded_length(tokens, sparse_n) // sparse_n)
    if order is not None:
        visual = _take(visual, forms.order(order.astype(ms.float32)))
    visual = skiparse_unpermute(visual, tokens=tokens, group=group)
    if text_q is None:
        return visual, None
    text_out = forms.mean(forms.narrow(out, 2, first - text, text).flip((2,)).astype(ms.float32), 1)
    return visual, text_out.astype(visual.dtype)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
    """See `mindsora.kernels.skiparse_attention.cross_attention`."""
    batch, tokens, heads, dim = q.shape
    length, mask = k.shape[1], None
    if lengths is not None:  # one byte per query and key: the variable-length form leaves no key out
        absent = ops.arange(length).reshape(1, 1, 1, length) >= lengths.reshape(batch, 1, 1, 1)
        mask = absent.broadcast_to((batch, 1, tokens, length)).astype(ms.uint8)
    return ops.flash_attention_score(
        q, k, v, heads, attn_mask=mask, scalar_value=1 / math.sqrt(dim), input_layout="BSND"
    )


def _grouped(x, text, sparse_n, group, order, some_text, some_video):
    """(B, N, H, D) and (B, L, H, D) -> (B, n, S, H, D), rows in the order above."""
    x = skiparse_permute(x, sparse_n=sparse_n, group=group)
    batch, n, _, heads, dim = x.shape
    if order is not None:
        x = _take(x, order)
    pad = ops.zeros((batch, n, 1, heads, dim), x.dtype)
    if text is not None:
        text_rows = text.flip((1,)).expand_dims(1).broadcast_to((batch, n) + text.shape[1:])
        x = ops.concat((pad, text_rows, x) if some_text else (text_rows, x), 2)
    return ops.concat((x, pad), 2) if some_video else x


def segment_ends(text_lengths: Sequence[int], tokens: int, text: int, sparse_n: int, group: bool) -> tuple[int, ...]:
    """Cumulative lengths of all segments where no video is masked, as Python numbers; the last one counts all rows.

    Args:
        text_lengths: real text tokens of each sample.
        tokens, text: visual and text tokens of a sample, N and L.
    """
    real = real_rows(tokens, sparse_n, group)  # (n,)
    absent = padded_length(tokens, sparse_n) // sparse_n - real + 1
    some_video = padded_length(tokens, sparse_n) > tokens
    lengths = [
        (1 + text - number, rows + number, *((rows_absent,) if some_video else ()))
        for number in text_lengths
        for rows, rows_absent in zip(real.tolist(), absent.tolist(), strict=True)
    ]
    return tuple(np.cumsum(lengths).tolist())


@ops.constexpr
def _constant_ends(batch, tokens, text, sparse_n, group):
    """The ends where all text is real and no video is masked: nothing stands before the real rows."""
    real = real_rows(tokens, sparse_n, group)
    absent = padded_length(tokens, sparse_n) // sparse_n - real + 1
    lengths = np.stack((real + text, absent), -1).reshape(-1)
    return tuple(np.cumsum(np.tile(lengths, batch)).tolist())


def _read_ends(batch, tokens, text, rows, sparse_n, group, text_lengths, video_mask, some_video):
    """`segment_ends` as a Tensor, int64, also where video is masked: MindSpore reads it back for CANN."""
    keep = ops.ones((1, tokens), ms.float32) if video_mask is None else (video_mask != 0).astype(ms.float32)
    keep = permute(keep, sparse_n=sparse_n, group=group).sum(-1)  # (B or 1, n)
    real = keep.astype(ms.int32).broadcast_to((batch, sparse_n))
    after = padded_length(tokens, sparse_n) // sparse_n - real + (1 if some_video else 0)
    if text_lengths is not None and text > 0:
        real = real + text_lengths.astype(ms.int32).reshape(batch, 1)
        parts = (rows - real - after, real)
    else:
        parts = (real + text,)
    if some_video:
        parts = parts + (after,)
    return forms.total_so_far(forms.stack(parts, -1).reshape(-1))


def _real_first(video_mask, sparse_n, group):
    """The order (B, n, R) that puts the real rows of every sub-sequence before the others."""
    keep = permute((video_mask != 0).astype(ms.float32), sparse_n=sparse_n, group=group)
    return forms.order(keep, descending=True)


def _take(x, order):
    """x: (B, n, R, H, D), its rows in the given order (B, n, R)."""
    batch, n, rows, heads, dim = x.shape
    first = ops.arange(batch * n).reshape(batch, n, 1) * rows
    return forms.take(x.reshape(-1, heads * dim), (order + first).reshape(-1)).reshape(x.shape)
