"""Black frames, frozen frames, flicker and black bars, in one pass over a clip."""

import math
import os

import numpy as np

from mindsora.curate.clips import Box, frames, grey
from mindsora.curate.settings import Measures

SIDE = 160  # pixels of the longer side
BLACK = 24  # luma up to which a pixel is black; studio black is 16, and compression adds some
DARK_SHARE = 0.98  # of a frame's pixels that make it a black frame
SAME = 1.5  # mean luma step of the most different tile, up to which a frame repeats the one before
TILES = 8  # per side
STILL_SECONDS = 0.5  # from which a run of repeated frames counts; films of 12 frames a second repeat every other one


def measure(record: dict, root: str | os.PathLike, measures: Measures) -> dict:
    """Shares of black and of frozen frames, flicker in levels of luma, and what black bars leave of the frame."""
    numbers = range(record["start"], record["start"] + record["num_frames"])
    pictures = grey(frames(root, record, numbers, SIDE))
    size = record["resolution"]
    box = scaled(bars(pictures), pictures.shape[1:], (size["height"], size["width"]))
    return {
        "black": round(float(black_frames(pictures).mean()), 4),
        "frozen": round(frozen_share(pictures, record["fps"]), 4),
        "flicker": round(flicker(pictures), 3),
        "box": box and list(box),
    }


def black_frames(pictures: np.ndarray) -> np.ndarray:
    """(T,) whether each frame is black. pictures: (T, H, W) luma."""
    return (pictures <= BLACK).mean((1, 2)) >= DARK_SHARE


def frozen_share(pictures: np.ndarray, fps: float) -> float:
    """Share of the frames that belong to runs of equal frames of at least STILL_SECONDS."""
    steps = np.abs(np.diff(pictures.astype(np.int16), axis=0))
    same = tile_means(steps).max((1, 2)) <= SAME
    least, frozen, run = max(2, STILL_SECONDS * fps), 0, 1
    for repeated in [*same, False]:
        if repeated:
            run += 1
        else:
            frozen += run if run >= least else 0
            run = 1
    return frozen / len(pictures)


def flicker(pictures: np.ndarray) -> float:
    """Median over tiles of how far their mean luma leaves that of the frames before and after, in levels."""
    if len(pictures) < 3:
        return 0.0
    means = tile_means(pictures)
    steps = np.diff(means, axis=0)
    # A change that is taken back at once; a fade, a pan or a cut is not. The smaller of the two steps counts.
    back = (steps[:-1] * steps[1:]) < 0
    taken_back = np.where(back, np.minimum(np.abs(steps[:-1]), np.abs(steps[1:])), 0)
    return float(np.median(taken_back.mean(0)))


def tile_means(pictures: np.ndarray) -> np.ndarray:
    """(T, TILES, TILES) means over tiles; rows and columns that are left over at the end belong to none."""
    height, width = (max(1, side // TILES) for side in pictures.shape[1:])
    rows, columns = pictures.shape[1] // height, pictures.shape[2] // width
    whole = pictures[:, : rows * height, : columns * width]
    return whole.reshape(len(pictures), rows, height, columns, width).mean((2, 4))


def bars(pictures: np.ndarray) -> Box | None:
    """What remains between black bars at opposite or single sides; None where there is none, or where all is black."""
    # A pixel of a bar is black in every frame; 98 % of a line, because a logo or a subtitle may stand in a bar.
    black = pictures.max(0) <= BLACK
    rows = np.flatnonzero(black.mean(1) < DARK_SHARE)
    if not len(rows):
        return None
    columns = np.flatnonzero(black[rows[0] : rows[-1] + 1].mean(0) < DARK_SHARE)
    if not len(columns):
        return None
    box = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    return None if box == (0, black.shape[1], 0, black.shape[0]) else box


def scaled(box: Box | None, size: tuple[int, int], full: tuple[int, int]) -> Box | None:
    """A box of a picture of `size` (height, width) in pixels of a picture of `full`.

    Edges inside move inwards by one pixel of the small picture, which may be half bar.
    """
    if box is None:
        return None
    left, right, top, bottom = box
    (height, width), (rows, columns) = size, full
    x, y = columns / width, rows / height
    inner = (
        0 if left == 0 else math.ceil((left + 1) * x),
        columns if right == width else int((right - 1) * x),
        0 if top == 0 else math.ceil((top + 1) * y),
        rows if bottom == height else int((bottom - 1) * y),
    )
    return inner if inner[0] < inner[1] and inner[2] < inner[3] else None
