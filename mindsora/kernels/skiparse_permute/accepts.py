"""The implementations of the permutation in order of preference, with the inputs that each accepts."""

import mindspore as ms

from mindsora.kernels.accepts import Accepts

BYTES = {ms.float16: 2, ms.bfloat16: 2, ms.float32: 4, ms.int32: 4}


def _blocks(dtype, width: int) -> str | None:
    """width: numbers in the row of one token."""
    size = BYTES[dtype] * width
    return f"the row of a token has {size} bytes; it takes multiples of 32" if size % 32 else None


ACCEPTS = {"ascend_custom": Accepts(_blocks, x=tuple(BYTES)), "cpu": Accepts(), "reference": Accepts()}
