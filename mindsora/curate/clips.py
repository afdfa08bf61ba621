"""Clip records, and the frames of a clip.

A record is a dictionary of JSON values: `id`, `path` in the curated folder, `start` and `num_frames` of its span in the
file, `fps`, `resolution`, `facts` of the file, and `scores` by stage. A file or clip that failed has `failed`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mindsora.files import whole_file
from mindsora.media import read_frames

Box = tuple[int, int, int, int]  # left, right, top, bottom in pixels: what remains of a frame


def span(record: dict, start: int, num_frames: int) -> dict:
    """The record of a part of its file: frames `start` to `start + num_frames`, counted in the file."""
    name = f"{record['path']}:{start}-{start + num_frames}"
    return record | {"id": name, "start": start, "num_frames": num_frames}


def uniform(record: dict, count: int) -> list[int]:
    """Numbers in the file of `count` frames at the middles of equal parts of the clip."""
    places = (np.arange(count) + 0.5) * record["num_frames"] / count
    return [record["start"] + int(place) for place in places]


def every(record: dict, step: float) -> list[int]:
    """Numbers in the file of the clip's frames 0, step, 2 step and so on."""
    return [record["start"] + int(place) for place in np.arange(0, record["num_frames"], step)]


def frames(root: str | os.PathLike, record: dict, numbers: Sequence[int], side: int, crop: Box | None = None):
    """Frames (T, H, W, 3) uint8 of a clip, cropped, their longer side at most `side` pixels.

    Raises:
        InputError: the file cannot be read, or has fewer frames.
    """
    left, right, top, bottom = crop or (0, record["resolution"]["width"], 0, record["resolution"]["height"])
    read = read_frames(Path(root) / record["path"], numbers, lambda frame: shrunk(frame[top:bottom, left:right], side))
    return np.stack(read)


def shrunk(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame whose longer side is at most `side` pixels, its ratio kept."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(frame)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def grey(clip: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB to luma (T, H, W) uint8."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip])


def read_lines(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """JSON Lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
