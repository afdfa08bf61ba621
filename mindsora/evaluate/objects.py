"""The objects of a procedural clip, one by one: shape, colour, motion and place, by classical vision.

`measure` sees the largest coloured object of a clip. `objects` separates all of them first: objects of one clip have
different colours, so each has its own hue, and what is left of a pixel without the others is gray background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mindsora.data.toy.procedural import BACKGROUNDS, COLOURS
from mindsora.evaluate.measure import MIN_CHROMA, blurred, isolate, measure

SMALLEST = 20  # pixels of a 64 x 64 frame, in the median frame; the smallest object of the data has 60


@dataclass(frozen=True)
class Seen:
    """One object of a clip.

    Attributes:
        shape, colour, motion: as `measure` names them; None where it cannot tell.
        x, y: mean centre, in pixels of a 64 x 64 frame from its middle; y points down.
        masks: (T, H, W) bool, its pixels.
    """

    shape: str | None
    colour: str
    motion: str | None
    x: float
    y: float
    masks: np.ndarray


def objects(video: np.ndarray, frames: range | None = None) -> tuple[Seen, ...]:
    """The objects of a clip (T, H, W, 3) uint8 with H = W, the largest first; of a part of it with `frames`."""
    chroma = video.astype(np.float32) - video.mean(-1, keepdims=True, dtype=np.float32)
    smooth = blurred(chroma - np.median(chroma, axis=(0, 1, 2)), 0.7)
    strength = np.sqrt((smooth**2).sum(-1))  # (T, H, W)
    strong = strength > max(MIN_CHROMA, 0.4 * np.percentile(strength, 99))
    hues = _hues(smooth, strong)
    seen = [_one(video, strong & (hues == number), colour, frames) for number, colour in enumerate(COLOURS)]
    return tuple(sorted(filter(None, seen), key=lambda one: -one.masks.sum()))


def _hues(chroma: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """The number of the nearest colour of every strong pixel, -1 elsewhere: (T, H, W)."""
    paints = np.array([np.asarray(rgb, np.float32) - np.mean(rgb) for rgb in COLOURS.values()])
    paints /= np.linalg.norm(paints, axis=1, keepdims=True)
    hues = np.full(strong.shape, -1)
    hues[strong] = np.argmax(chroma[strong] @ paints.T, axis=1)
    return hues


def _one(video: np.ndarray, mask: np.ndarray, colour: str, frames: range | None) -> Seen | None:
    """The object with these pixels; None if too few frames show one."""
    scale = video.shape[1] / 64
    parts = [isolate(frame.astype(np.float32)) for frame in mask]
    visible = [part is not None for part in parts]
    if np.mean(visible) < 0.5 or np.median(mask.sum((1, 2))) < SMALLEST * scale**2:
        return None
    mask = np.stack([np.zeros(mask.shape[1:], bool) if part is None else part > 0 for part in parts]) & mask
    side = 2 * round(4 * scale) + 1
    near = np.stack([cv2.dilate(frame.astype(np.uint8), np.ones((side, side), np.uint8)) for frame in mask])
    gray = np.repeat(video.mean(-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    result = measure(np.where(near[..., None] > 0, video, gray), frames)
    rows, columns = np.arange(mask.shape[1]) + 0.5, np.arange(mask.shape[2]) + 0.5
    area = mask.sum((1, 2))[visible]
    x = (mask.sum(1)[visible] @ columns / area).mean() / scale - 32
    y = (mask.sum(2)[visible] @ rows / area).mean() / scale - 32
    return Seen(result.shape, colour, result.motion, float(x), float(y), mask)


def background_of(video: np.ndarray, seen: Sequence[Seen]) -> str:
    """The name of the background that is nearest to a clip's gray levels, row by row, without the objects."""
    free = ~np.any([one.masks for one in seen], axis=0) if seen else np.ones(video.shape[:3], bool)
    free = np.stack([cv2.erode(frame.astype(np.uint8), np.ones((5, 5), np.uint8)) for frame in free]).astype(bool)
    gray = np.ma.masked_array(video.mean(-1), ~free)
    levels = np.ma.median(gray, axis=(0, 2)).filled(np.nan)  # (H,)
    rows = len(levels)

    def distance(name: str) -> float:
        return float(np.nanmean(np.abs(levels - np.linspace(*BACKGROUNDS[name], rows))))

    return min(BACKGROUNDS, key=distance)
