"""Annotation files: which videos and pictures there are, with captions, sizes and lengths.

A merge file has one data set a line, `folder,annotations` or `folder,text_features,annotations`; blank lines and lines
that begin with # are skipped. Annotations are a list of records in .json, one record a line in .jsonl, or rows in .parquet.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mindsora.errors import InputError, shown

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tiff")
CONTAINERS = (".json", ".jsonl", ".parquet")


class DataSet(NamedTuple):
    """One line of a merge file: the folder that paths of records start from, and the annotation file."""

    folder: Path
    annotations: Path


class Clip(NamedTuple):
    """One usable record.

    Attributes:
        path: of the file.
        captions: at least one; each use of the clip draws one.
        height, width: of the file's frames as a player shows them, in pixels.
        num_frames: in the span that may be used; 1 for pictures.
        fps: frames per second; 0 for pictures.
        start: number of the first frame of the span.
        crop: (left, right, top, bottom) in pixels, what remains of every frame; None keeps it whole.
        aesthetic: score, or None.
    """

    path: str
    captions: tuple[str, ...]
    height: int
    width: int
    num_frames: int = 1
    fps: float = 0.0
    start: int = 0
    crop: tuple[int, int, int, int] | None = None
    aesthetic: float | None = None

    @property
    def is_picture(self) -> bool:
        return is_picture(self.path)

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width after `crop`."""
        left, right, top, bottom = self.crop or (0, self.width, 0, self.height)
        return bottom - top, right - left


class BadRecord(Exception):
    """A record that makes no clip; `reason` is one of `mindsora.data.filtering.REASONS`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def is_picture(path: str) -> bool:
    """Whether the name of a file says picture. The case of the suffix does not matter."""
    return path.lower().endswith(PICTURE_SUFFIXES)


def read_merge_file(path: str | os.PathLike) -> list[DataSet]:
    """The data sets of a merge file. Relative paths start from the working directory, as in upstream.

    Raises:
        InputError: no such file, a line of another form, or none.
    """
    if not os.path.isfile(path):
        raise InputError(f"data.merge_file = {shown(path)} does not exist (or is not a file)")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {shown(path)}: {shown(error, quote=False)}") from error
    sets = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        columns = [column.strip() for column in line.split(",")]
        if len(columns) not in (2, 3) or not all(columns):
            raise InputError(
                f"{shown(path)}, line {number}: {shown(line)} has {len(columns)} columns; write folder,annotations or "
                "folder,text_features,annotations (no quotes, and no comma inside a name)"
            )
        sets.append(DataSet(Path(columns[0]), Path(columns[-1])))
    if not sets:
        raise InputError(f"{shown(path)} names no data set; write a line folder,annotations")
    return sets


def read_records(path: str | os.PathLike) -> Iterator[Any]:
    """The records of an annotation file, as they stand there.

    Raises:
        InputError: no such file, damaged, or another container. Pickle is refused: reading it runs code.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise InputError(f"annotations {shown(path)}: a pickle can run any code; save it as {' or '.join(CONTAINERS)}")
    if suffix not in CONTAINERS:
        raise InputError(f"annotations {shown(path)}: must be one of {', '.join(CONTAINERS)}")
    if not os.path.isfile(path):
        raise InputError(f"annotations {shown(path)} do not exist (or are not a file)")
    read = {".json": _read_json, ".jsonl": _read_lines, ".parquet": _read_parquet}[suffix]
    try:
        yield from read(path)
    except (OSError, ValueError, RecursionError) as error:  # of the system, JSON's and Arrow's
        raise InputError(f"annotations {shown(path)} cannot be read: {shown(error, quote=False)}") from error


def _read_json(path: Path) -> list:
    with open(path, encoding="utf-8-sig") as file:
        records = json.load(file)
    if not isinstance(records, list):
        raise InputError(f"annotations {shown(path)} must hold a list of records")
    return records


def _read_lines(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise InputError(
                        f"annotations {shown(path)}, line {number}: {shown(error, quote=False)}"
                    ) from error


def _read_parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"annotations {shown(path)}: .parquet needs pyarrow; pip install 'mindsora[parquet]', or save them as .jsonl"
        ) from error
    with parquet.ParquetFile(path) as file:
        for rows in file.iter_batches(10_000):
            for record in rows.to_pylist():
                yield {key: value for key, value in record.items() if value is not None}


def clip_of(record: Any, folder: Path) -> Clip:
    """A record as a clip.

    Raises:
        BadRecord: no caption, no size, a video without rate or length, another kind of file, or a value of another type.
    """
    if not isinstance(record, dict) or not isinstance(record.get("path"), str) or not record["path"]:
        raise BadRecord("malformed", "it has no path")
    path = os.path.join(folder, record["path"])
    if not path.lower().endswith(VIDEO_SUFFIXES + PICTURE_SUFFIXES):
        raise BadRecord("kind", f"{shown(path)} is no video and no picture by its name")
    captions = _captions(record)
    height, width = _size(record)
    aesthetic = _number(record, "aesthetic", "aes")
    clip = Clip(path, captions, height, width, crop=_crop(record, height, width), aesthetic=aesthetic)
    if clip.is_picture:
        return clip
    num_frames, fps = _number(record, "num_frames"), _number(record, "fps")
    if not num_frames or not fps or num_frames < 1 or not 0 < fps <= 1000:
        raise BadRecord("malformed", f"a video needs num_frames and fps, not {num_frames} and {fps}")
    return clip._replace(num_frames=int(num_frames), fps=float(fps), start=_start(record))


def _captions(record: dict) -> tuple[str, ...]:
    captions = record.get("cap")
    captions = [captions] if isinstance(captions, str) else captions
    if not captions:
        raise BadRecord("caption", "it has no cap")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise BadRecord("malformed", f"cap = {shown(record['cap'])} is no text and no list of texts")
    return tuple(captions)


def _size(record: dict) -> tuple[int, int]:
    size = record.get("resolution")
    if not isinstance(size, dict):
        raise BadRecord("resolution", "it has no resolution")
    height, width = _number(size, "height"), _number(size, "width")
    if not height or not width or height < 1 or width < 1:
        raise BadRecord("resolution", f"its resolution is {height} x {width}")
    return int(height), int(width)


def _crop(record: dict, height: int, width: int) -> tuple[int, int, int, int] | None:
    crop = record.get("crop")
    if crop is None:
        return None
    if not isinstance(crop, list) or len(crop) != 4 or not all(_is_number(side) for side in crop):
        raise BadRecord("malformed", f"crop = {shown(crop)} must be [left, right, top, bottom]")
    left, right, top, bottom = map(int, crop)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadRecord("malformed", f"crop = {crop} must rise within the {width} x {height} pixels of a frame")
    return left, right, top, bottom


def _start(record: dict) -> int:
    """The first frame of the span. The second number of `cut` has no meaning: `num_frames` gives the length."""
    cut = record.get("cut")
    if cut is None:
        return 0
    if not isinstance(cut, list) or not cut or not _is_number(cut[0]) or cut[0] < 0:
        raise BadRecord("malformed", f"cut = {shown(cut)} must be [first frame, end]")
    return int(cut[0])


def _number(record: dict, *names: str) -> float | None:
    """The first of these keys that has a value; None if none has."""
    for name in names:
        value = record.get(name)
        if value is not None:
            if not _is_number(value):
                raise BadRecord("malformed", f"{name} = {shown(value)} must be a number")
            return value
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15  # false for NaN
