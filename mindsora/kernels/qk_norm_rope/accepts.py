"""The implementations of norm and rotation in order of preference, with the inputs that each accepts."""

from mindsora.kernels.accepts import HALVES, NO_BFLOAT16, SINGLE, Accepts


def _heads(shape: tuple[int, ...]) -> str | None:
    """x (B, N, H, D)."""
    heads, dim = shape[2:]
    if dim % 16 or dim > 256:
        return f"a head has {dim} channels; it takes multiples of 16 up to 256"
    return f"x has {heads} heads; it takes up to 255" if heads > 255 else None


# Rotary tables in half precision (v1.3) require a rotation in half precision.
ACCEPTS = {
    "ascend_custom": Accepts(_heads, x=HALVES, tables=SINGLE),
    "ascend_builtin": Accepts(),
    "cpu": Accepts(x=NO_BFLOAT16, tables=SINGLE),
    "reference": Accepts(),
}
