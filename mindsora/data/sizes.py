"""Which size a frame gets: fixed, one of five aspect ratios, or any multiple of the stride.

Whole numbers come from truncated products of doubles, as in upstream. Rounding otherwise moves some sizes by a stride.
"""

import math
from typing import NamedTuple

from mindsora.data.settings import VideoData

# height : width, and the number with two decimals that a file's ratio is compared with
FIVE_RATIOS = {0.56: (9, 16), 0.75: (3, 4), 1.00: (1, 1), 1.33: (4, 3), 1.78: (16, 9)}
FILTER_STRIDE = 16  # upstream lays the five sizes out with this stride, whatever the model's


class Box(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Fit(NamedTuple):
    """How a frame becomes a sample: `crop` it, `resize` it to (height, width), then take `keep` of it."""

    crop: Box
    resize: tuple[int, int]
    keep: Box


def nearest_ratio(height: int, width: int) -> tuple[int, int]:
    """The one of FIVE_RATIOS nearest to a frame's, as (rows, columns)."""
    return FIVE_RATIOS[min(FIVE_RATIOS, key=lambda key: abs(key - height / width))]


def min_max_sizes(max_pixels: int, stride: int = FILTER_STRIDE) -> dict[tuple[int, int], tuple[int, int]]:
    """The Min-Max token strategy: for each of the five ratios the largest (height, width) of at most `max_pixels`."""
    return {ratio: _largest(*ratio, max_pixels, stride) for ratio in FIVE_RATIOS.values()}


def min_pixels(data: VideoData) -> int:
    """Files of fewer pixels are dropped."""
    if data.min_pixels is not None:
        return data.min_pixels
    if data.size:
        return math.prod(data.size)
    return min(map(math.prod, min_max_sizes(data.max_pixels).values())) if data.five_ratios else data.max_pixels // 4


def fit(height: int, width: int, data: VideoData) -> Fit:
    """How frames of height x width become samples. A side of `keep` is 0 where the frames are too small."""
    if data.size:
        rows, columns = _of_ratio(height, width, *data.size)
        # Rounded, halves to even, where the other sizes truncate: upstream has two croppers.
        box = Box(round((height - rows) / 2), round((width - columns) / 2), rows, columns)
        return Fit(box, data.size, Box(0, 0, *data.size))
    if data.five_ratios:
        ratio = nearest_ratio(height, width)
        target = _largest(*ratio, min(height * width, data.max_pixels), FILTER_STRIDE)
        resized = _covering(height, width, *target)
        box = _centred(*resized, *_in_ratio(*resized, *ratio))
    else:
        scale = math.sqrt(data.max_pixels / (height * width)) if height * width > data.max_pixels else 1.0
        resized = int(height * scale), int(width * scale)
        box = Box(0, 0, *resized)
    floored = (side // data.pixel_stride * data.pixel_stride for side in box[2:])
    inner = _centred(box.height, box.width, *floored)
    keep = Box(box.top + inner.top, box.left + inner.left, inner.height, inner.width)
    return Fit(Box(0, 0, height, width), resized, keep)


def _largest(rows: int, columns: int, max_pixels: int, stride: int) -> tuple[int, int]:
    k = math.floor(math.sqrt(max_pixels / (rows * columns * stride**2))) * stride
    if k == 0:  # smaller than rows x columns strides: no longer a multiple of the stride
        k = math.sqrt(max_pixels / (rows * columns))
    return int(rows * k), int(columns * k)


def _covering(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Scale a frame, keeping its ratio, until it just covers rows x columns."""
    if height / width > rows / columns:
        return int(columns / width * height), columns
    return rows, int(rows / height * width)


def _in_ratio(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """The largest part of a frame with the ratio rows : columns."""
    if height / width > rows / columns:
        return int(width * rows / columns), width
    return height, int(height * columns / rows)


def _of_ratio(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Like `_in_ratio`, rounded as upstream does for a fixed size."""
    ratio = rows / columns
    return (int(width * ratio), width) if height / width > ratio else (height, int(height / ratio))


def _centred(height: int, width: int, rows: int, columns: int) -> Box:
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)
