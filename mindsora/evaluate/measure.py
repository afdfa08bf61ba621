"""Shape, colour and motion of the object in a clip, by classical vision without learned parts.

The background of every procedural clip is gray, so colour alone separates the object from it: a pixel's chroma (its
colour without the gray part) is the object's chroma times the share of the pixel that the object covers. That share is
linear in the pixel values, so blur and noise do not bias the areas, centroids and moments below.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from scipy import ndimage

from mindsora.data.toy.procedural import COLOURS, DIRECTIONS, SHAPES, coverage
from mindsora.errors import InputError

MIN_CHROMA = 25  # length of the chroma vector, of 255; the palest colour of the data has 110
# Changes of the training clips over their length. The largest change in these units names the motion; below REST: still.
TRAVEL, GROWTH, TURN, REST = 29.0, 9.0, np.pi / 2, 0.35  # pixels of a 64 x 64 frame, pixels of radius, radians
BLURS = (0.0, 1.5, 3.0)  # pixels; otherwise a decoder's blur would turn a cross into a square
SYMMETRY = {"circle": 1, "square": 4, "triangle": 3, "cross": 4}  # order n: the moment sum((x + iy)^n) turns with it


@dataclass(frozen=True)
class Measured:
    """The attributes of the object in a clip; None if no object was found.

    `track` has the numbers behind the motion, and `jump`: the largest change of the object's centre or radius between
    adjacent frames anywhere in the clip, in pixels of a 64 x 64 frame.
    """

    shape: str | None
    colour: str | None
    motion: str | None
    track: dict


def measure(
    video: np.ndarray, frames: range | None = None, colours: Mapping[str, tuple[int, int, int]] = COLOURS
) -> Measured:
    """Measure the largest coloured object.

    Args:
        video: (T, H, W, 3), uint8 or float in [0, 1], H = W.
        frames: consecutive numbers of the frames whose shape, colour and motion are measured; None for all. The object
            is found in the whole clip, and its turn counts from the first frame, where it stands upright.
        colours: name -> RGB, of which the nearest in hue is the object's.
    """
    if video.ndim != 4 or video.shape[3] != 3 or video.shape[1] != video.shape[2]:
        raise InputError(f"video of shape {video.shape}: one clip (frames, size, size, 3) is measured at a time")
    frames = range(len(video)) if frames is None else frames
    rgb = np.asarray(video, np.float32) * (1 if video.dtype == np.uint8 else 255)
    chroma = rgb - rgb.mean(-1, keepdims=True)
    chroma -= np.median(chroma, axis=(0, 1, 2))  # a tint of the background
    smooth = blurred(chroma, 0.7)
    strength = np.sqrt((smooth**2).sum(-1))  # (T, H, W)
    level = np.percentile(strength, 99)
    strong = strength > 0.6 * level
    core = largest(strong)
    if level < MIN_CHROMA or not core.any():
        return Measured(None, None, None, {})
    paint = smooth[core].mean(0)  # (3,), the object's chroma
    cover = smooth @ paint / (paint @ paint)  # (T, H, W), 0 outside, 1 inside
    part = slice(frames.start, frames.stop)
    part_core = largest(strong[part])
    colour = nearest_colour(smooth[part][part_core].mean(0), colours) if part_core.any() else None

    objects = [isolate(frame) for frame in cover]
    visible = np.array([t for t, mask in enumerate(objects) if mask is not None], int)
    selected = np.isin(visible, frames)
    if selected.sum() < max(1, len(frames) // 2):
        return Measured(None, colour, None, {})
    cover = np.stack([objects[t] for t in visible])
    times = visible / max(1, len(video) - 1)

    size = cover.shape[1]
    grid = np.arange(size) + 0.5 - size / 2
    area = cover.sum((1, 2))
    centre = np.stack([(cover.sum(1) @ grid) / area, (cover.sum(2) @ grid) / area], 1)  # (T, 2): x, y
    z = (grid[None, None, :] - centre[:, 0, None, None]) + 1j * (grid[None, :, None] - centre[:, 1, None, None])
    moments = {n: (cover * z**n).sum((1, 2)) / (cover * np.abs(z) ** n).sum((1, 2)) for n in (3, 4)}

    shape = nearest_shape(cover, centre, area, moments, selected)
    centre, radius = centre * 64 / size, np.sqrt(area / np.pi) * 64 / size
    steps = np.diff(np.column_stack([centre, radius]), axis=0)  # (T - 1, 3)
    moments = {order: moment[selected] for order, moment in moments.items()}
    span = (len(frames) - 1) / max(1, len(video) - 1)
    motion, track = name_motion(shape, centre[selected], radius[selected], moments, times[selected], span)
    track["jump"] = float(max(np.hypot(*steps[:, :2].T).max(), np.abs(steps[:, 2]).max())) if len(steps) else 0.0
    return Measured(shape, colour, motion, track)


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Frames (T, H, W) or (T, H, W, C) with a Gaussian blur of `sigma` pixels, cut off at four of them."""
    if sigma == 0:
        return frames
    side = 2 * int(4 * sigma + 0.5) + 1
    border = cv2.BORDER_REFLECT
    return np.stack([cv2.GaussianBlur(frame, (side, side), sigma, borderType=border) for frame in frames])


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask of any dimension."""
    labels, count = ndimage.label(mask)  # OpenCV labels pictures alone
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else mask


def isolate(cover: np.ndarray) -> np.ndarray | None:
    """One frame's coverage (H, W) without all but the largest object; None if that object is too small."""
    scale = cover.shape[0] / 64
    mask = largest(cover > 0.5)
    if mask.sum() < 20 * scale**2:
        return None
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    near = cv2.dilate(mask.astype(np.uint8), cross, iterations=max(1, round(4 * scale)))
    return np.clip(cover, 0, 1) * near


def nearest_colour(paint: np.ndarray, colours: Mapping[str, tuple[int, int, int]]) -> str:
    """The colour name with the smallest angle between chroma vectors, which is the difference in hue."""

    def cosine(name):
        chroma = np.asarray(colours[name], np.float32) - np.mean(colours[name])
        return chroma @ paint / np.sqrt((chroma @ chroma) * (paint @ paint))

    return max(colours, key=cosine)


@cache
def unit_area(shape: str) -> float:
    """Area of a shape of radius 1."""
    one = np.ones(1)
    return float(coverage(shape, np.zeros((1, 2)), 16 * one, 0 * one, 64).sum() / 16**2)


def nearest_shape(cover, centre, area, moments, selected) -> str:
    """The shape that overlaps best when drawn with the centre, area, turn and blur of the clip.

    Every object of the data stands upright in its first frame, so only the turn since then is measured: a decoder rounds
    a cross until it looks like a square on its corner, but no square starts on its corner. `selected` (T,) marks the
    frames that count.
    """
    size, shares = cover.shape[1], {}
    for shape in SHAPES:
        order = SYMMETRY[shape]
        angle = np.unwrap(np.angle(moments[order])) / order if order > 1 else np.zeros(len(area))
        radius = np.sqrt(area / unit_area(shape))
        template = coverage(shape, centre * 64 / size, radius * 64 / size, angle - angle[0], size)
        overlaps = [union_share(cover, blurred(template, sigma)) for sigma in BLURS]
        shares[shape] = np.max(overlaps, axis=0)[selected]
    # Blur rounds every shape, but not equally in all frames, so the least round quarter of the frames decides.
    clear = np.argsort(shares["circle"])[: max(1, selected.sum() // 4)]
    return max(SHAPES, key=lambda shape: shares[shape][clear].mean())


def union_share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of soft masks (T, H, W), frame by frame: (T,)."""
    return np.minimum(a, b).sum((1, 2)) / np.maximum(a, b).sum((1, 2))


def name_motion(shape, centre, radius, moments, times, span) -> tuple[str, dict]:
    """Name the motion from the tracks of centre (T, 2) and radius (T,), in pixels of a 64 x 64 frame.

    For a part of the clip, `span` of its time, the track is extrapolated to the whole clip at the same speed.
    """
    x, y, growth = np.polyfit(times, np.column_stack([centre, radius]), 1)[0] if len(times) > 1 else (0.0, 0.0, 0.0)
    order = SYMMETRY[shape]
    turn = 0.0
    if order > 1 and len(times) > 1:  # mean step of the orientation, weighted by the clarity of the outline
        step = np.angle((moments[order][1:] * moments[order][:-1].conj()).sum())
        turn = step / order * (len(times) - 1) / span
    direction = max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], (x, y)))
    strength = {
        direction: np.hypot(x, y) / TRAVEL,
        "growing" if growth > 0 else "shrinking": abs(growth) / GROWTH,
        "rotating": abs(turn) / TURN,
        "still": REST,
    }
    track = {"travel": [float(x), float(y)], "growth": float(growth), "turn_degrees": float(np.degrees(turn))}
    return max(strength, key=strength.get), track
