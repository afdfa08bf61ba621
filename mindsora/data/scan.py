"""An annotation file from a folder of videos and pictures with their captions in files beside them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mindsora.config import parse_json
from mindsora.data.annotations import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_picture
from mindsora.errors import InputError, shown
from mindsora.files import whole_file
from mindsora.media import probe_video, read_picture

ANNOTATIONS, MERGE_FILE = "annotations.jsonl", "merge.txt"
_MAX_CAPTION = 2**20  # bytes of a caption file


class Scan(NamedTuple):
    """The files written, the records in them, and a message for each file that has no record."""

    merge_file: Path
    records: list[dict[str, Any]]
    skipped: list[str]


def scan(folder: str | os.PathLike, output: str | os.PathLike | None = None) -> Scan:
    """Write ANNOTATIONS and MERGE_FILE for a folder of videos and pictures and its subfolders.

    The caption of `cat.mp4` stands in `cat.txt`, one a line where there are several, or in `cat.json`: a text, a list of
    texts, or an object with one of them under "cap" or "caption".

    Args:
        output: folder for the two files; None: `folder` itself.

    Raises:
        InputError: no such folder, no usable file in it, or the two files cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{shown(folder)} is no folder; give one with videos and their captions")
    output = Path(output) if output is not None else folder
    merge_file, annotations = (output.absolute() / name for name in (MERGE_FILE, ANNOTATIONS))
    if comma := [path for path in (folder.absolute(), annotations) if "," in str(path)]:
        raise InputError(f"{shown(comma[0])} has a comma, which separates the columns of a merge file; rename it")
    records, skipped = [], []
    for path in _media_files(folder):
        try:
            records.append(_record(path, folder))
        except InputError as error:
            skipped.append(str(error))
    if not records:
        found = f"; {len(skipped)} skipped, the first: {skipped[0]}" if skipped else ""
        raise InputError(f"{shown(folder)} has no video and no picture with a caption{found}")
    output.mkdir(parents=True, exist_ok=True)
    with whole_file(annotations) as temporary:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        temporary.write_text("".join(lines), encoding="utf-8")
    with whole_file(merge_file) as temporary:
        temporary.write_text(f"{folder.absolute()},{annotations}\n", encoding="utf-8")
    return Scan(merge_file, records, skipped)


def _media_files(folder: Path) -> Iterator[Path]:
    """Videos and pictures in order of their names."""
    for path in sorted(folder.rglob("*")):
        if path.name.lower().endswith(VIDEO_SUFFIXES + PICTURE_SUFFIXES) and path.is_file():
            yield path


def _record(path: Path, folder: Path) -> dict[str, Any]:
    captions = captions_beside(path)
    record = {"path": str(path.relative_to(folder)), "cap": captions}
    if is_picture(path.name):
        width, height = read_picture(path).size
        return record | {"resolution": {"height": height, "width": width}}
    facts = probe_video(path)
    size = {"height": facts.height, "width": facts.width}
    return record | {"resolution": size, "num_frames": facts.num_frames, "fps": round(facts.fps, 3)}


def captions_beside(path: Path) -> list[str]:
    """The captions beside a file. InputError: there is no file with them, or nothing in it."""
    for suffix in (".txt", ".json"):
        beside = path.with_suffix(suffix)
        if beside.is_file():
            content = beside.read_bytes()[: _MAX_CAPTION + 1]
            captions = _parsed(beside, content)
            if not captions:
                raise InputError(f"{shown(beside)} holds no caption")
            return captions
    raise InputError(f"{shown(path)} has no caption: write it into {shown(path.with_suffix('.txt').name)} beside it")


def _parsed(path: Path, content: bytes) -> list[str]:
    try:
        if len(content) > _MAX_CAPTION:
            raise ValueError(f"it is longer than {_MAX_CAPTION} bytes")
        if path.suffix == ".txt":
            captions: Any = content.decode("utf-8-sig").splitlines()
        else:
            captions = parse_json(content)
            if isinstance(captions, dict):
                captions = captions.get("cap", captions.get("caption"))
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError('it has no text and no list of texts, nor one of them under "cap" or "caption"')
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read the caption in {shown(path)}: {shown(error, quote=False)}") from error
    return [caption.strip() for caption in captions if caption.strip()]
