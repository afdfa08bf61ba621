"""What attention is told about text: how many tokens of it are real. The attention itself is in `mindsora.kernels`."""

import numpy as np

from mindsora.errors import InputError


def prefix_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths (B,) int32 of tokeniser masks (B, L) or (B, 1, L), checked: each row is ones, then zeros.

    Raises:
        InputError: a row has a gap or no token at all; attention takes lengths and could not honour it.
    """
    mask = np.asarray(mask).reshape(mask.shape[0], mask.shape[-1]) != 0
    lengths = mask.sum(-1).astype(np.int32)
    for row, length in enumerate(lengths):
        if length == 0 or not mask[row, :length].all():
            raise InputError(
                f"text mask row {row} is {mask[row].astype(int).tolist()}; real tokens must stand first, "
                f"and there must be at least one (an empty prompt keeps its end token)"
            )
    return lengths
