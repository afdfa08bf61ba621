"""Marks laid over a clip, such as a stock agency's watermark, found without a net.

A mark is a thin structure (strokes of letters, lines of a logo) that stays in its place while something behind it moves.
The temporal median of the clip keeps such structures and blurs what moves; a morphological top-hat keeps of the median
what is thinner than THIN. Where nothing moves, a mark and a printed letter of the scene are the same picture, and a scene
of leaves or bricks has thin structures of its own: such clips give no evidence.

`overlaid` draws synthetic marks; `benchmarks/marks.py` measures recall and false alarms with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# Lengths are in pixels of a frame whose shorter side is 64.
THIN = 5  # side of the top-hat's window: strokes below it remain; the narrowest arm at rest of the nano data has 6.4
CONTRAST = 14  # gray levels, of 255, of a stroke against its surroundings; the autoencoder's ripples stay below
STABLE = 0.8  # share of the frames in which a stroke is where the median has it (section 5.6 of the specification)
STROKES = 24  # pixels of stable strokes in one cluster; fewer are specks, or the corners of an object at rest
FREE = 0.45  # share of the frame away from strokes; tiled marks on a plain scene leave 0.49, photographs mostly 0.1
TEXTURE = 1.0  # gray levels: median detail away from strokes; clips of nano have up to 0.8
MOVING = 6  # gray levels: mean temporal deviation of the busiest twentieth of the pixels
PLACES = ("corner", "centre", "tiled")
"""Where `overlaid` puts a mark."""


@dataclass(frozen=True)
class Marks:
    """What `marks` sees in a clip.

    Attributes:
        boxes: (top, left, bottom, right) of every mark, in pixels; empty for a clean clip.
        evidence: whether a mark could be told from the scene: something moves, and the scene behind has no texture.
    """

    boxes: tuple[tuple[int, int, int, int], ...]
    evidence: bool


def marks(video: np.ndarray) -> Marks:
    """The marks over a clip (T, H, W, 3) uint8."""
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]).astype(np.float32)  # (T, H, W)
    scale = min(gray.shape[1:]) / 64
    median = np.median(gray, axis=0)
    strokes = _strokes(median, scale)
    if not _moves(gray) or _textured(median, strokes, scale):
        return Marks((), False)
    present = np.mean([strokes & _strokes(frame, scale) for frame in gray], axis=0)
    return Marks(tuple(_clusters(present >= STABLE, scale)), True)


def _textured(median: np.ndarray, strokes: np.ndarray, scale: float) -> bool:
    """Whether the scene beside the strokes has texture of its own, such as leaves or bricks."""
    side = 2 * round(THIN * scale / 2) + 1
    free = cv2.dilate(strokes.astype(np.uint8), np.ones((side + 2, side + 2), np.uint8)) == 0
    if free.mean() < FREE:
        return True
    detail = np.abs(median - cv2.blur(median, (side, side)))  # none in a gradient
    return float(np.median(detail[free])) > TEXTURE


def _moves(gray: np.ndarray) -> bool:
    deviation = np.sort(gray.std(0).ravel())
    return deviation[-max(1, deviation.size // 20) :].mean() > MOVING


def _strokes(picture: np.ndarray, scale: float) -> np.ndarray:
    """Pixels of bright or dark structures thinner than THIN: (H, W) bool."""
    side = 2 * round(THIN * scale / 2) + 1
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    bright, dark = (cv2.morphologyEx(picture, kind, window) for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    return np.maximum(bright, dark) > CONTRAST


def _clusters(stable: np.ndarray, scale: float):
    """Boxes of groups of strokes; letters of one word are closer to each other than THIN."""
    side = 2 * round(THIN * scale / 2) + 1
    joined = cv2.morphologyEx(stable.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    for label in range(1, count):
        if (stable & (labels == label)).sum() >= STROKES * scale**2:
            left, top, width, height = stats[label, :4]
            yield int(top), int(left), int(top + height), int(left + width)


def overlaid(video: np.ndarray, text: str, place: str, opacity: float, rng: np.random.RandomState) -> np.ndarray:
    """A clip (T, H, W, 3) uint8 with a mark: white letters with a dark rim.

    Args:
        place: one of PLACES.
        opacity: share of the mark in its pixels.
    """
    height, width = video.shape[1:3]
    size = min(height, width) / 64
    ink, rim = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * size, max(1, round(size)))
    for left, base in _origins(place, (height, width), (wide, tall), rng):
        for layer, thickness in ((rim, round(3 * size)), (ink, max(1, round(size)))):
            cv2.putText(layer, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * size, 255, thickness, cv2.LINE_AA)
    share = opacity * np.maximum(rim, ink)[None, ..., None] / np.float32(255)
    colour = ink[None, ..., None].astype(np.float32)
    return np.round(video * (1 - share) + colour * share).astype(np.uint8)


def _origins(place: str, frame: Sequence[int], text: Sequence[int], rng) -> list[tuple[int, int]]:
    """Left ends of the text's base lines."""
    (height, width), (wide, tall) = frame, text
    if place == "centre":
        return [((width - wide) // 2, (height + tall) // 2)]
    margin = max(2, min(frame) // 32)
    rights, bottoms = (margin, max(margin, width - wide - margin)), (tall + margin, height - margin)
    if place == "corner":
        return [(rights[rng.randint(2)], bottoms[rng.randint(2)])]
    step = 4 * tall
    return [(margin + (row % 2) * wide // 2, tall + row * step) for row in range(max(2, 1 + (height - tall) // step))]
