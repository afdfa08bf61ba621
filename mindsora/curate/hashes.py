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
    return {"plain": [_hex(one) for one in pictures], "mirrored": [_hex(one[:, ::-1]) for one in pictures]}


def dhash(picture: np.ndarray) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than its right neighbour. picture: (H, W) luma."""
    small = cv2.resize(np.ascontiguousarray(picture), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _hex(picture: np.ndarray) -> str:
    return f"{dhash(picture):016x}"


def duplicates(clips: Iterable[tuple[str, dict]], distance: int) -> dict[str, str]:
    """The clips that repeat an earlier one: name to name of the earliest such clip that is no duplicate itself.

    Two clips are one when the hashes of their frames differ by at most `distance` bits in the mean, the second mirrored or
    not. Frames are compared where they share one of `distance + 1` bands of bits: of that many bands one is untouched.

    Args:
        clips: (name, value of `measure`) in the order in which the first of two stays.
    """
    bands, firsts, names, repeats = _bands(distance), {}, [], {}
    kept = np.zeros((0, FRAMES), np.uint64)
    for name, value in clips:
        forms = [np.array([int(text, 16) for text in value[form]], np.uint64) for form in ("plain", "mirrored")]
        near = sorted({one for form in forms for key in _keys(form, bands) for one in firsts.get(key, ())})
        close = [one for one in near if any(_mean_bits(kept[one], form) <= distance for form in forms)]
        if close:
            repeats[name] = names[close[0]]
            continue
        for key in _keys(forms[0], bands):
            firsts.setdefault(key, []).append(len(names))
        if len(names) == len(kept):
            kept = np.concatenate([kept, np.zeros((max(1024, len(kept)), FRAMES), np.uint64)])
        kept[len(names)] = forms[0]
        names.append(name)
    return repeats


def _mean_bits(one: np.ndarray, other: np.ndarray) -> float:
    return np.unpackbits((one ^ other).view(np.uint8)).sum() / FRAMES


def _bands(distance: int) -> list[tuple[int, int]]:
    """(shift, mask) of distance + 1 bands of the 64 bits."""
    edges = [BITS * i // (distance + 1) for i in range(distance + 2)]
    return [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:])]


def _keys(form: np.ndarray, bands: list[tuple[int, int]]) -> set[tuple[int, int, int]]:
    """What two clips share of which one frame differs by at most `distance` bits."""
    return {
        (place, number, (int(bits) >> shift) & mask)
        for place, bits in enumerate(form)
        for number, (shift, mask) in enumerate(bands)
    }
