"""Near duplicates: difference hashes (dHash) of a few frames, mirrored or not, within a Hamming distance."""

import os
from collections.abc import Iterable

import cv2
import numpy as np

from mindsora.curate.clips import Box, frames, grey, uniform
from mindsora.curate.settings import Measures

FRAMES = 5
SIDE = 160  # pixels of the longer side from which a hash is made
BITS = 64


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


def duplicates(clips: Iterable[tuple[str, dict]], distance: int) -> dict[str, str]:
    """The clips that repeat an earlier one: name to name of the earliest such clip that is no duplicate itself.

    Two clips are one when the hashes of their frames differ by at most `distance` bits in the mean, the second mirrored or
    not. Only clips of which one frame agrees in a quarter of its hash are compared: copies nearly always
    have such a frame, others seldom.

    Args:
        clips: (name, value of `measure`) in the order in which the first of two stays.
    """
    firsts: dict[tuple[int, int, int], list[int]] = {}
    names, kept, repeats = [], [], {}
    for name, value in clips:
        forms = [[int(text, 16) for text in value[form]] for form in ("plain", "mirrored")]
        near = sorted({one for form in forms for key in _keys(form) for one in firsts.get(key, ())})
        close = (one for one in near if any(_mean_bits(kept[one], form) <= distance for form in forms))
        first = next(close, None)
        if first is not None:
            repeats[name] = names[first]
            continue
        for key in _keys(forms[0]):
            firsts.setdefault(key, []).append(len(names))
        names.append(name)
        kept.append(forms[0])
    return repeats


def _mean_bits(one: list[int], other: list[int]) -> float:
    return sum((a ^ b).bit_count() for a, b in zip(one, other)) / len(one)


def _keys(form: list[int]) -> set[tuple[int, int, int]]:
    """(frame, quarter, 16 bits) of each hash. A frame without any edge has none: it resembles every other such frame."""
    return {
        (place, quarter, bits >> 16 * quarter & 0xFFFF)
        for place, bits in enumerate(form)
        for quarter in range(BITS // 16)
        if bits
    }
