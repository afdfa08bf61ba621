"""Layer or RMS norm over the last axis, scale and shift, optionally followed by SiLU."""

from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.choice import choose
from mindsora.kernels.placeholder import learned
from mindsora.kernels.row_norm import ascend, cpu, reference


def row_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, norm: str, eps: float, silu: bool = False
) -> Tensor:
    """act(normalised x * weight + bias), normalised in float32.

    Args:
        x: (..., C).
        weight, bias: (C,); bias may be None.
        norm: "layer" (mean and variance) or "rms" (root mean square).
        eps: added to the variance or the mean square.
        silu: whether act is SiLU, x * sigmoid(x), or the identity.

    Returns:
        (..., C): layer norm in x's dtype, RMS norm in the weight's dtype (as upstream's models do).

    Raises:
        InputError: an unknown norm, or a weight of another size than x's last axis.
    """
    kind = _kind(x.dtype, weight.dtype, x.shape, weight.shape, norm)
    if kind == "reference":
        return reference.row_norm(x, weight, bias, norm=norm, eps=eps, silu=silu)
    if kind == "ascend_builtin":
        return ascend.row_norm(x, weight, bias, norm=norm, eps=eps, silu=silu)
    return cpu.row_norm(norm == "layer", silu, eps)(x, weight, learned(bias, 0.0, x.shape[-1]))


@ops.constexpr
def _kind(dtype, weight_dtype, shape, weight, norm):
    if norm not in reference.NORMS:
        raise InputError(f"norm {norm!r} must be one of {', '.join(reference.NORMS)}")
    if weight != shape[-1:]:
        raise InputError(f"a weight of shape {weight} must be (C,) for x (..., C) of shape {shape}")
    return choose("row_norm", {"x": dtype, "weight": weight_dtype})
