"""Text boxes by RapidOCR, whose models come with its package, and the crop that removes text at the edges."""

import os
from functools import cache

import numpy as np

from mindsora.curate.clips import Box, every, frames
from mindsora.curate.settings import Measures
from mindsora.errors import InputError

SIDE = 640  # pixels of the longer side that the detector sees


def measure(record: dict, root: str | os.PathLike, measures: Measures, crop: Box | None) -> dict:
    """Boxes [left, right, top, bottom] of text by sampled frame, in pixels of the file; and the frames' numbers."""
    numbers = every(record, max(1.0, record["fps"] / measures.text.per_second))
    size = record["resolution"]
    left, right, top, _ = crop or (0, size["width"], 0, size["height"])
    clip = frames(root, record, numbers, SIDE, crop)
    scale = (right - left) / clip.shape[2]
    found = boxes_of(clip, measures.text.confidence)
    return {"frames": numbers, "boxes": [_placed(boxes, scale, left, top) for boxes in found]}


def boxes_of(clip: np.ndarray, confidence: float) -> list[list[list[float]]]:
    """For each frame of a clip (T, H, W, 3) uint8 its text boxes [left, right, top, bottom]."""
    return [_boxes(frame, confidence) for frame in clip]


def _boxes(frame: np.ndarray, confidence: float) -> list[list[float]]:
    """Boxes [left, right, top, bottom] of the lines that the recogniser reads with at least this confidence."""
    read = _reader()(np.ascontiguousarray(frame[..., ::-1]), use_cls=False)  # BGR
    if getattr(read, "txts", None) is None:
        return []
    kept = [box for box, score in zip(read.boxes, read.scores) if score >= confidence]
    return [[box[:, 0].min(), box[:, 0].max(), box[:, 1].min(), box[:, 1].max()] for box in kept]


def _placed(boxes: list[list[float]], scale: float, left: int, top: int) -> list[list[int]]:
    """Boxes of the small frame in pixels of the whole one, rounded outwards."""
    return [
        [int(x0 * scale) + left, -int(-x1 * scale // 1) + left, int(y0 * scale) + top, -int(-y1 * scale // 1) + top]
        for x0, x1, y0, y1 in boxes
    ]


@cache
def _reader():
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise InputError("text boxes need RapidOCR: pip install 'mindsora[curate]'") from error
    # One thread: the processes of a run share the cores. "max": a small frame is not enlarged.
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    size = {"Det.limit_side_len": SIDE, "Det.limit_type": "max"}
    return RapidOCR(params={"Global.log_level": "error", **size, **threads})


def without_text(boxes: list[list[int]], frame: Box, limit: float) -> Box:
    """What remains of `frame` once text in its outer bands is cropped.

    A box counts for a side when it lies wholly in that side's outer band, `limit` of the height or width. The crop goes to
    the innermost edge of such boxes, so a side loses at most its band. Text elsewhere stays. A box in a corner belongs to
    the top or bottom: subtitles and banners are rows.
    """
    left, right, top, bottom = frame
    x_band, y_band = limit * (right - left), limit * (bottom - top)
    sides = [left, right, top, bottom]
    for x0, x1, y0, y1 in boxes:
        if y1 <= top + y_band:
            sides[2] = max(sides[2], y1)
        elif y0 >= bottom - y_band:
            sides[3] = min(sides[3], y0)
        elif x1 <= left + x_band:
            sides[0] = max(sides[0], x1)
        elif x0 >= right - x_band:
            sides[1] = min(sides[1], x0)
    return tuple(sides)
