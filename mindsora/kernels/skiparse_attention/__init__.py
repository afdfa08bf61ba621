"""Attention of Open-Sora Plan: over sub-sequences of the video, each with all text, and v1.3's cross attention to text.

See README.md.
"""

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.ascend import custom
from mindsora.kernels.choice import choose
from mindsora.kernels.placeholder import nothing
from mindsora.kernels.skiparse_attention import ascend, cpu, reference


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
    segments: tuple[int, ...] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Each of n sub-sequences of the visual tokens attends to itself and to all text tokens.

    Args:
        q, k, v: visual tokens (B, N, H, D), normalised and rotated. Queries are scaled by 1 / sqrt(D) here.
        text_q, text_k, text_v: text tokens (B, L, H, D). Without text_q text serves as keys and values only; without
            all three there is no text (v1.3).
        sparse_n: number of sub-sequences n; 1 is full attention.
        group: group skip (odd blocks) instead of single skip; see `skiparse_permute.reference`.
        text_lengths: (B,) real text tokens of each sample, always at the front; None: all L are real.
        video_mask: (B, N), non-zero for real visual tokens; None: all are real. (Padding that skiparse itself adds
            is known from N and needs no mask.)
        segments: `ascend.segment_ends` of text_lengths, for CANN's attention, which otherwise reads the lengths back
            from the device. Not with a video_mask.

    Returns:
        Visual output (B, N, H, D), and text output (B, L, H, D): the plain mean over the n sub-sequences, including
        those that hold only padding (None without text_q). A query without real keys gives zero. Softmax is float32 in
        every dtype. The output for padding and for masked tokens has no meaning.

    Raises:
        InputError: shapes that do not belong together, or n below 1.
    """
    text = (
        None if text_q is None else text_q.shape,
        None if text_k is None else text_k.shape,
        None if text_v is None else text_v.shape,
    )
    kind = _kind(q.dtype, q.shape, k.shape, v.shape, text, sparse_n, video_mask is not None)
    if kind == "reference":
        return reference.attention(
            q,
            k,
            v,
            text_q,
            text_k,
            text_v,
            sparse_n=sparse_n,
            group=group,
            text_lengths=text_lengths,
            video_mask=video_mask,
        )
    if kind == "ascend_builtin":
        return ascend.attention(
            q,
            k,
            v,
            text_q,
            text_k,
            text_v,
            sparse_n=sparse_n,
            group=group,
            text_lengths=text_lengths,
            video_mask=video_mask,
            segments=segments if video_mask is None else None,
        )
    if kind == "ascend_custom":
        return custom.attention_with_text(q, k, v, text_q, text_k, text_v, text_lengths, sparse_n=sparse_n, group=group)
    lengths = cpu.all_text_lengths() if text_lengths is None else text_lengths.astype(ms.int32)
    mask = nothing("int32") if video_mask is None else (video_mask != 0).astype(ms.int32)
    visual, text_out, _, _ = cpu.attention(sparse_n, group)(
        q,
        k,
        v,
        nothing("float32") if text_q is None else text_q,
        nothing("float32") if text_k is None else text_k,
        nothing("float32") if text_v is None else text_v,
        lengths,
        mask,
    )
    return visual, None if text_q is None else text_out


def cross_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Visual tokens attend to text alone (v1.3). Every query sees all of the text, so this attention is not sparse.

    Args:
        q: visual queries (B, N, H, D); scaled by 1 / sqrt(D) here.
        k, v: text (B, L, H, D).
        lengths: (B,) real text tokens of each sample, at least one, always at the front; None: all L are real.

    Returns:
        (B, N, H, D). Softmax is float32 in every dtype.

    Raises:
        InputError: shapes that do not belong together.
    """
    kind = _cross_kind(q.dtype, q.shape, k.shape, v.shape)
    if kind == "ascend_builtin":
        return ascend.cross_attention(q, k, v, lengths)
    if kind == "reference":
        return reference.cross_attention(q, k, v, lengths)
    # Joint attention with all visual keys masked: the kernel omits them from its list of keys, so they cost nothing.
    lengths = cpu.all_text_lengths() if lengths is None else lengths.astype(ms.int32)
    hidden = ops.zeros(q.shape[:2], ms.int32)
    return cpu.attention(1, False)(q, q, q, nothing("float32"), k, v, lengths, hidden)[0]


@ops.constexpr
def _cross_kind(dtype, q, k, v):
    """The implementation for these shapes, which are checked."""
    if len(q) != 4 or len(k) != 4 or k != v or q[::2] + q[3:] != k[::2] + k[3:]:
        raise InputError(f"q {q} must be (B, N, H, D), k {k} and v {v} (B, L, H, D) with the same B, H and D")
    return choose("skiparse_attention", {"q": dtype}, shape=q, sparse_n=1, hides_video=True)


@ops.constexpr
def _kind(dtype, q, k, v, text, sparse_n, masked=False):
    """The implementation for these shapes, which are checked."""
    if not len(q) == 4 or not q == k == v:
        raise InputError(f"q {q}, k {k} and v {v} must have one shape (B, N, H, D)")
    if sparse_n < 1:
        raise InputError(f"sparse_n {sparse_n} must be 1 or more; 1 is full attention")
    text_q, text_k, text_v = text
    if text_k != text_v or (text_q is not None and text_q != text_k):
        raise InputError(f"text_q {text_q}, text_k {text_k} and text_v {text_v} must have one shape (B, L, H, D)")
    if text_k is not None and (len(text_k) != 4 or text_k[::2] + text_k[3:] != q[::2] + q[3:]):
        raise InputError(f"text of shape {text_k} must have the batch, heads and channels of q {q}")
    return choose("skiparse_attention", {"q": dtype}, shape=q, sparse_n=sparse_n, hides_video=masked)
