"""Near duplicates: difference hashes (dHash) of a few frames, mirrored or not, within a Hamming distance."""

import os
from array import array
from collections.abc import Iterable

import cv2
import numpy as np

from mindsora.curate.clips import Box, frames, grey, uniform
from mindsora.curate.settings import Measures

FRAMES = 5
SIDE = 160  # pixels of the longer side from which a hash is made
_QUERIES = 1024  # clips that are looked up at once


def measure(record: dict, root: str | os.PathLike, measures: Measures, crop: Box | None) -> dict:
    """Hashes of the clip's frames and of their mirror images, hexadecimal."""
    pictures = grey(frames(root, record, uniform(record, FRAMES), SIDE, crop))
    return {"plain": [as_hex(one) for one in pictures], "mirrored": [as_hex(one[:, ::-1]) for one in pictures]}


def dhash(picture: np.ndarray) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than its right neighbour. picture: (H, W) luma."""
    small = cv2.resize(np.ascontiguousarray(picture), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def as_hex(picture: np.ndarray) -> str:
    """The hash of a picture in 16 hexadecimal digits."""
    return f"{dhash(picture):016x}"


def duplicates(values: Iterable[dict], distance: int) -> dict[int, int]:
    """The clips that repeat an earlier one: number to number of the earliest such clip that is no duplicate itself.

    Two clips are one when the hashes of their frames differ by at most `distance` bits in the mean, the second mirrored or
    not. Only clips of which one frame agrees in a quarter of its hash are compared: copies nearly always have such a frame,
    others seldom. Memory: 160 bytes for each clip.

    Args:
        values: results of `measure`, in the order in which the first of two stays.
    """
    flat = array("Q")
    for value in values:
        flat.extend(int(text, 16) for form in ("plain", "mirrored") for text in value[form])
    bits = np.frombuffer(flat, np.uint64).reshape(-1, 2, FRAMES) if flat else np.zeros((0, 2, FRAMES), np.uint64)
    indices, repeats = [_Index(bits[:, 0, place], quarter) for place in range(FRAMES) for quarter in range(4)], {}
    for first in range(0, len(bits), _QUERIES):
        part = bits[first : first + _QUERIES]
        spans = [
            (index, index.spans(part[:, form, place // 4])) for form in (0, 1) for place, index in enumerate(indices)
        ]
        for row in range(len(part)):
            near = {int(one) for index, (low, high) in spans for one in index.order[low[row] : high[row]]}
            for one in sorted(one for one in near if one < first + row and one not in repeats):
                if min(_mean_bits(bits[one, 0], form) for form in part[row]) <= distance:
                    repeats[first + row] = one
                    break
    return repeats


class _Index:
    """The clips in order of a quarter of the hash of one frame.

    A frame without any edge, whose hash is 0, is left out: it resembles every other such frame.
    """

    def __init__(self, bits: np.ndarray, quarter: int):
        self.quarter, edges = quarter, np.flatnonzero(bits)
        keys = self._keys(bits[edges])
        order = np.argsort(keys, kind="stable")
        self.order, self.keys = edges[order].astype(np.uint32), keys[order]

    def spans(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each of these hashes the first and last place in `order` of the clips that share the quarter."""
        keys = self._keys(bits)
        low, high = (np.searchsorted(self.keys, keys, side) for side in ("left", "right"))
        return low, np.where(bits == 0, low, high)

    def _keys(self, bits: np.ndarray) -> np.ndarray:
        return (bits >> np.uint64(16 * self.quarter)).astype(np.uint16)


def _mean_bits(one: np.ndarray, other: np.ndarray) -> float:
    return sum(int(bits).bit_count() for bits in one ^ other) / FRAMES
