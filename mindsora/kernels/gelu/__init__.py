"""GELU in its tanh form, and GELU times a gate (Hendrycks & Gimpel 2016; Shazeer 2020, GEGLU)."""

from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.choice import choose
from mindsora.kernels.gelu import ascend, cpu, reference


def gelu_tanh(x: Tensor, gate: Tensor | None = None) -> Tensor:
    """gelu(x), or gelu(x) * gate; gelu(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in float32.

    Args:
        x: any shape.
        gate: the same shape and dtype; None for plain GELU.

    Returns:
        x's shape and dtype.

    Raises:
        InputError: a gate of another shape.
    """
    kind = _kind(x.dtype, x.shape, None if gate is None else gate.dtype, None if gate is None else gate.shape)
    if kind == "reference":
        return reference.gelu_tanh(x, gate)
    if kind == "ascend_builtin":
        return ascend.gelu_tanh(x, gate)
    return cpu.gelu()(x) if gate is None else cpu.gated_gelu()(x, gate)


@ops.constexpr
def _kind(dtype, shape, gate_dtype, gate):
    if gate is not None and gate != shape:
        raise InputError(f"a gate of shape {gate} must have x's shape {shape}")
    return choose("gelu", {"x": dtype, "gate": dtype if gate_dtype is None else gate_dtype})
