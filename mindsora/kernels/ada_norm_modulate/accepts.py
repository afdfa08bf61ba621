"""The implementations of adaptive normalisation in order of preference, with the inputs that each accepts."""

from mindsora.kernels.accepts import HALVES, NO_BFLOAT16, Accepts


def _vectors(shape: tuple[int, ...]) -> str | None:
    """x (B, S, C): a row must fit the vector unit's memory and fill whole blocks of 32 bytes."""
    channels = shape[2]
    fits = channels % 16 == 0 and channels <= 4096
    return None if fits else f"x has {channels} channels; it takes multiples of 16 up to 4096"


ACCEPTS = {
    "ascend_custom": Accepts(_vectors, x=HALVES),
    "ascend_builtin": Accepts(),
    "cpu": Accepts(x=NO_BFLOAT16),
    "reference": Accepts(),
}
