"""Measures of clips that were made around given frames: fidelity, seams, fades, movement, likeness."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from mindsora.errors import InputError
from mindsora.media import psnr

MOST_GAP = 1.5  # dB by which a given frame may be worse than its round trip through the autoencoder
MOST_SEAM = 2.0  # difference of the frames at a border, in medians of the differences inside
MOST_BLEND = 0.6  # share of a middle frame's variance that a blend of both ends may explain
LEAST_CHANGE = 0.5  # gray levels: mean difference of neighbouring frames of a clip that moves
FLAT = 4.0  # square gray levels: variance of a picture that shows nothing


def steps(video: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring frames in gray levels: (T - 1,)."""
    return np.array([cv2.absdiff(a, b).mean() for a, b in zip(video[:-1], video[1:])])


def moves(video: np.ndarray) -> bool:
    """Whether a clip changes at all; a copy of a still does not."""
    return len(video) > 1 and float(steps(video).mean()) >= LEAST_CHANGE


def psnr_gap(given: np.ndarray, made: np.ndarray, round_trip: np.ndarray) -> float:
    """The worst gap over the given frames, (n, H, W, 3) uint8 each, in dB: round trip less what was made.

    Below zero where the model shows a frame better than its autoencoder alone.
    """
    gaps = [psnr(g[None], r[None]) - psnr(g[None], m[None]) for g, m, r in zip(given, made, round_trip, strict=True)]
    return float(max(gaps))


def seam_ratio(video: np.ndarray, borders: Sequence[int]) -> float:
    """The largest difference at a border between frames n - 1 and n, over the median difference inside.

    Differences count one gray level at least: a clip that stands still has no visible seam.
    """
    differences = np.maximum(steps(video), 1.0)
    at = [border - 1 for border in borders]
    inside = np.delete(differences, at)
    if not at or not len(inside):
        raise InputError(f"{len(video)} frames with borders {list(borders)}: a seam needs frames on both sides")
    return float(differences[at].max() / np.median(inside))


def blend_share(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> float | None:
    """Share of the middle frame's variance that the best linear blend of both ends explains: near 1 for a cross-fade.

    Frames (H, W, 3). None where the middle is flat, or where the ends are so alike that every middle is a blend.
    """
    a, m, b = (frame.astype(np.float64).ravel() for frame in (first, middle, last))
    if m.var() < FLAT or (a - b).var() < FLAT:
        return None
    basis = np.stack([a, b, np.ones_like(a)], 1)
    rest = m - basis @ np.linalg.lstsq(basis, m, rcond=None)[0]
    return float(1 - rest.var() / m.var())


def flow_speed(video: np.ndarray) -> float:
    """Median over the frames of the mean optical flow (OpenCV's DIS) of moving pixels, in pixels a frame."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    lengths = [np.linalg.norm(flow.calc(a, b, None), axis=-1) for a, b in zip(gray[:-1], gray[1:])]
    speeds = [float(length[length > 0.25].mean()) if (length > 0.25).any() else 0.0 for length in lengths]
    return float(np.median(speeds))


@lru_cache(1)
def _descriptor():
    return cv2.HOGDescriptor((32, 32), (16, 16), (8, 8), (8, 8), 9)


def likeness_vector(crop: np.ndarray) -> np.ndarray:
    """A vector of unit length for a picture (H, W, 3) uint8 of an object: its hues and its outline.

    A histogram of hue, weighted by saturation, and oriented gradients. It stands in for the embedding of a network.
    """
    picture = cv2.resize(crop, (32, 32), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float64)
    hues = np.histogram(hsv[..., 0], 24, (0, 180), weights=hsv[..., 1])[0]
    outline = _descriptor().compute(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).ravel()
    parts = [part / max(np.linalg.norm(part), 1e-9) for part in (hues, outline - outline.mean())]
    return np.concatenate(parts) / np.sqrt(2)


def cropped(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square around an object, its surroundings gray, so that the background says nothing: (n, n, 3) uint8."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.full((32, 32, 3), 128, np.uint8)
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 5
    top, left = (rows[0] + rows[-1] - side) // 2, (columns[0] + columns[-1] - side) // 2
    square = np.full((side, side, 3), 128, np.uint8)
    r, c = np.nonzero(mask)
    inside = (r >= top) & (r < top + side) & (c >= left) & (c < left + side)
    square[r[inside] - top, c[inside] - left] = frame[r[inside], c[inside]]
    return square


def identity(within: float, between: float, ceiling: float) -> float:
    """I = (within - between) / (ceiling - between), of mean cosines: 1 for shots as alike as those of true clips, 0 for
    shots no more alike than those of different sequences."""
    if ceiling <= between:
        raise InputError(f"the ceiling of the likeness, {ceiling:.3f}, must be above that of strangers, {between:.3f}")
    return (within - between) / (ceiling - between)
