"""Norm of every head of queries or keys, then rotary embedding over (t, y, x). See README.md."""

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.ascend import custom
from mindsora.kernels.choice import choose
from mindsora.kernels.placeholder import learned, nothing
from mindsora.kernels.qk_norm_rope import ascend, cpu, reference


def qk_norm_rope(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    *,
    norm: str,
    split: tuple[int, int, int] = (0, 0, 0),
    eps: float = 1e-6,
) -> Tensor:
    """Normalise every head, scale, rotate.

    Args:
        x: queries or keys (B, N, H, D).
        weight, bias: (D,) of the norm, or None.
        rope: cos and sin (1, N, 1, D) as `mindsora.nn.rope.rope_tensors` gives them; None for tokens without a position
            (text).
        norm: "rms" (v1.5), "layer" or "none" (v1.3); over the D channels of a head.
        split: channels of a head that t, y and x rotate: D/4, 3D/8, 3D/8 in v1.5, a third each in v1.3.
        eps: added to the mean square.

    Returns:
        (B, N, H, D) in x's dtype.

    Raises:
        InputError: shapes that do not belong together, or an unknown norm.
    """
    kind = _kind(x.dtype, x.shape, _dtype(rope), _shape(rope), norm, split)
    if kind == "reference":
        return reference.norm_rope(x, weight, bias, rope, norm=norm, split=split, eps=eps)
    if kind == "ascend_builtin":
        return ascend.norm_rope(x, weight, bias, rope, norm=norm, split=split, eps=eps)
    dim = x.shape[3]
    cos = nothing("float32") if rope is None else rope[0]
    sin = nothing("float32") if rope is None else rope[1]
    weight, bias = learned(weight, 1.0, dim), learned(bias, 0.0, dim)
    if kind == "ascend_custom":
        return custom.norm_rope(norm, split, eps)(x, weight, bias, cos, sin)
    return cpu.norm_rope(norm, split, eps)(x, weight, bias, cos, sin)


def qk_norm_rope_grouped(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    text: Tensor | None = None,
    text_weight: Tensor | None = None,
    text_bias: Tensor | None = None,
    *,
    norm: str,
    split: tuple[int, int, int] = (0, 0, 0),
    eps: float = 1e-6,
    sparse_n: int,
    group: bool,
) -> Tensor:
    """`qk_norm_rope` of visual and text tokens, stored as the sub-sequences of skiparse attention.

    Args:
        text: text queries or keys (B, L, H, D), which have no position, or None.
        text_weight, text_bias: (D,) of the text's norm.
        sparse_n, group: as in `skiparse_permute`.
        The others: as in `qk_norm_rope`.

    Returns:
        (B, n, R + L, H, D): R rows of a sub-sequence, zero where there is no token, then the L text rows.
    """
    kind = _kind(x.dtype, x.shape, _dtype(rope), _shape(rope), norm, split)
    if kind == "reference":
        x = reference.norm_rope(x, weight, bias, rope, norm=norm, split=split, eps=eps)
        if text is not None:
            text = reference.norm_rope(text, text_weight, text_bias, None, norm=norm, split=split, eps=eps)
        return reference.grouped(x, text, sparse_n=sparse_n, group=group)
    if kind == "ascend_builtin":
        x = ascend.norm_rope(x, weight, bias, rope, norm=norm, split=split, eps=eps)
        if text is not None:
            text = ascend.norm_rope(text, text_weight, text_bias, None, norm=norm, split=split, eps=eps)
        return reference.grouped(x, text, sparse_n=sparse_n, group=group)
    dim = x.shape[3]
    cos = nothing("float32") if rope is None else rope[0]
    sin = nothing("float32") if rope is None else rope[1]
    weight, bias = learned(weight, 1.0, dim), learned(bias, 0.0, dim)
    text = nothing("float32") if text is None else text
    text_weight, text_bias = learned(text_weight, 1.0, dim), learned(text_bias, 0.0, dim)
    if kind == "ascend_custom":
        return custom.norm_rope_grouped(norm, split, eps, sparse_n, group)(
            x, weight, bias, cos, sin, text, text_weight, text_bias
        )
    return cpu.norm_rope_grouped(norm, split, eps, sparse_n, group)(
        x, weight, bias, cos, sin, text, text_weight, text_bias
    )


def _shape(rope):
    return None if rope is None else rope[0].shape


def _dtype(rope):
    return ms.float32 if rope is None else rope[0].dtype


@ops.constexpr
def _kind(dtype, shape, table_dtype, table, norm, split):
    if norm not in reference.NORMS:
        raise InputError(f"norm {norm!r} must be one of {', '.join(reference.NORMS)}")
    if len(shape) != 4:
        raise InputError(f"x of shape {shape} must be (B, N, H, D)")
    if table is not None and table != (1, shape[1], 1, shape[3]):
        raise InputError(f"cos and sin of shape {table} must be (1, N, 1, D) for x (B, N, H, D) of shape {shape}")
    if table is not None and (sum(split) != shape[3] or any(width % 2 for width in split)):
        raise InputError(f"split {split} must be three even numbers that make up the {shape[3]} channels of a head")
    return choose("qk_norm_rope", {"x": dtype, "tables": table_dtype}, shape=shape)
