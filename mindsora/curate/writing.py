"""Clips as files of their own: what stays of each, re-encoded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mindsora.curate.clips import frames, read_lines, write_lines
from mindsora.curate.decide import KEPT, MERGE_FILE
from mindsora.curate.settings import fingerprint
from mindsora.curate.stages import Plan
from mindsora.errors import InputError, shown
from mindsora.files import whole_file
from mindsora.media import export_to_video

FOLDER = "clips"
ENCODING = "libx264 crf 18"  # of mindsora.media
_CHUNK = 32  # frames in memory
_WHOLE = 1 << 20  # pixels of a side: no frame is shrunk


def write_clips(plan: Plan) -> Path:
    """Write every clip that stays as OUT/clips/HASH.mp4, exact to the frame and cropped, with annotations and a merge file.

    Files that are there are kept, so that a stopped call goes on. Returns the merge file.

    Raises:
        InputError: nothing was decided yet, or a source cannot be read any more.
    """
    output, folder = Path(plan.output).absolute(), Path(plan.output).absolute() / FOLDER
    if not (output / f"{KEPT}.jsonl").is_file():
        raise InputError(f"{shown(plan.output)} has no decision yet; run `mindsora curate decide {plan.output}`")
    folder.mkdir(exist_ok=True)
    rows = [_written(plan, folder, row) for row in read_lines(output / f"{KEPT}.jsonl")]
    write_lines(folder / f"{KEPT}.jsonl", rows)
    with whole_file(folder / MERGE_FILE) as temporary:
        temporary.write_text(f"{folder},{folder / KEPT}.jsonl\n", encoding="utf-8")
    return folder / MERGE_FILE


def _written(plan: Plan, folder: Path, row: dict) -> dict:
    """Write the clip of an annotation, and return the annotation of the new file."""
    crop = row.get("crop")
    name = f"{fingerprint([row['path'], row['cut'], crop])}.mp4"
    if not (folder / name).exists():
        export_to_video(_chunks(plan, row), folder / name, row["fps"])
    left, right, top, bottom = crop or (0, row["resolution"]["width"], 0, row["resolution"]["height"])
    # yuv420p has even sides; the writer repeats the last row or column.
    size = {"height": (bottom - top + 1) // 2 * 2, "width": (right - left + 1) // 2 * 2}
    kept = {key: value for key, value in row.items() if key != "crop"}
    place = {"path": name, "resolution": size, "cut": [0, row["num_frames"]]}
    return kept | place | {"of": {"path": row["path"], "cut": row["cut"], "crop": crop}, "encoding": ENCODING}


def _chunks(plan: Plan, row: dict) -> Iterator[np.ndarray]:
    first, last = row["cut"]
    for start in range(first, last, _CHUNK):
        yield frames(plan.root, row, range(start, min(start + _CHUNK, last)), _WHOLE, row.get("crop"))
