"""The implementations of attention in order of preference, with the inputs that each accepts.

Our own operator for Ascend comes after CANN's until it has been measured on Ascend (recipes/ascend_kernels).
"""

from mindsora.kernels.accepts import HALVES, NO_BFLOAT16, Accepts

SEGMENTS = 1024  # the most that the variable-length form of CANN's flash attention takes


def _flash(shape: tuple[int, ...], sparse_n: int, hides_video: bool) -> str | None:
    """shape: queries (B, N, H, D). hides_video: whether visual keys are masked."""
    batch, _, heads, dim = shape
    if dim % 16 or dim > 512:
        return f"a head has {dim} channels; it takes multiples of 16 up to 512"
    if heads > 256:
        return f"q has {heads} heads; it takes up to 256"
    segments = 3 * batch * sparse_n
    if segments > SEGMENTS:
        return f"{batch} samples of {sparse_n} sub-sequences need {segments} segments; it takes up to {SEGMENTS}"
    return None


def _own(shape: tuple[int, ...], sparse_n: int, hides_video: bool) -> str | None:
    if hides_video:
        return "it has no form for masked video or for text alone (cross_attention)"
    dim = shape[3]
    return f"a head has {dim} channels; it takes multiples of 16 up to 128" if dim % 16 or dim > 128 else None


ACCEPTS = {
    "ascend_builtin": Accepts(_flash, q=HALVES),
    "ascend_custom": Accepts(_own, q=HALVES),
    "cpu": Accepts(q=NO_BFLOAT16),
    "reference": Accepts(),
}
