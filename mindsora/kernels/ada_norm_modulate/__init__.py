"""Layer normalisation and gated residual under a conditioning vector (Peebles & Xie 2022, adaLN)."""

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.ada_norm_modulate import ascend, cpu, reference
from mindsora.kernels.ascend import custom
from mindsora.kernels.choice import choose
from mindsora.kernels.placeholder import learned


def ada_norm_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float
) -> Tensor:
    """(layer norm of x * weight + bias) * (1 + scale) + shift, in float32.

    Args:
        x: stream (B, S, C).
        shift, scale: (B, 1, C), from the conditioning vector of each sample.
        weight, bias: (C,) of the norm; None for a norm without them (v1.3).
        eps: added to the variance.

    Returns:
        (B, S, C) in x's dtype.

    Raises:
        InputError: shapes that do not belong together.
    """
    kind = _kind(x.dtype, x.shape, (shift.shape, scale.shape))
    if kind == "reference":
        return reference.ada_norm_modulate(x, shift, scale, weight, bias, eps=eps)
    if kind == "ascend_builtin":
        return ascend.ada_norm_modulate(x, shift, scale, weight, bias, eps=eps)
    shift, scale = shift.astype(ms.float32), scale.astype(ms.float32)
    weight, bias = learned(weight, 1.0, x.shape[2]), learned(bias, 0.0, x.shape[2])
    if kind == "ascend_custom":
        return custom.ada_norm_modulate(eps)(x, shift, scale, weight, bias)
    return cpu.ada_norm_modulate(eps)(x, shift, scale, weight, bias)


def gated_residual(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate * update in float32.

    Args:
        x, update: (B, S, C), of one dtype.
        gate: (B, 1, C).

    Returns:
        (B, S, C) in x's dtype.

    Raises:
        InputError: shapes that do not belong together.
    """
    kind = _kind(x.dtype, x.shape, (gate.shape,))
    if kind in ("reference", "ascend_builtin"):  # there is no built-in for it
        return reference.gated_residual(x, gate, update)
    if kind == "ascend_custom":
        return custom.gated_residual()(x, gate.astype(ms.float32), update.astype(x.dtype))
    return cpu.gated_residual()(x, gate.astype(ms.float32), update.astype(x.dtype))


@ops.constexpr
def _kind(dtype, shape, rows):
    for row in rows:
        if len(shape) != 3 or row != (shape[0], 1, shape[2]):
            raise InputError(f"a row of shape {row} must be (B, 1, C) for a stream (B, S, C) of shape {shape}")
    return choose("ada_norm_modulate", {"x": dtype}, shape=shape)
