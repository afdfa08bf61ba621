"""From files to spans of frames: the facts of a file, slices of equal length, parts between jump cuts."""

import os
from pathlib import Path
from typing import Any

import av
import numpy as np

from mindsora.curate import cuts
from mindsora.curate.clips import span
from mindsora.curate.settings import Measures
from mindsora.errors import InputError, shown
from mindsora.media import probe_video
from mindsora.media.reading import DEMUXERS

MAX_SLICE = 2048  # frames of a slice: a file can state any rate
VARIABLE = 0.1  # a rate is called variable where intervals differ from their median by more than this share


def probe(record: dict, root: str | os.PathLike, measures: Measures) -> list[dict]:
    """The file's record with its facts.

    Raises:
        InputError: it is no video that can be decoded.
    """
    path = Path(root) / record["path"]
    seen = probe_video(path)
    if seen.num_frames < 2:
        raise InputError(f"video {shown(path)} has {seen.num_frames} frames; a clip needs more")
    size = {"height": seen.height, "width": seen.width}
    facts = {"bytes": path.stat().st_size, **_container_facts(path)}
    whole = record | {"resolution": size, "fps": round(seen.fps, 3), "facts": facts}
    return [span(whole, 0, seen.num_frames)]


def _container_facts(path: Path) -> dict[str, Any]:
    with av.open(str(path), options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}) as container:
        stream = container.streams.video[0]
        context, sound = stream.codec_context, bool(container.streams.audio)
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        facts = {"codec": context.name, "pixels": context.pix_fmt, "sound": sound}
        return facts | {"variable_rate": _varies(np.diff(times)), "turned": _turned(path)}


def _varies(intervals: np.ndarray) -> bool:
    if not len(intervals):
        return False
    middle = np.median(intervals)
    return bool((np.abs(intervals - middle) > max(VARIABLE * middle, 1)).any())


def _turned(path: Path) -> int:
    """Degrees by which players turn the frames."""
    with av.open(str(path), options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}) as container:
        return int(next(container.decode(video=0)).rotation)


def slices(record: dict, root: str | os.PathLike, measures: Measures) -> list[dict]:
    """The file in spans of `slice.seconds`. They begin at exact frames, where upstream's stream copy takes keyframes."""
    length = min(MAX_SLICE, max(1, round(measures.slice.seconds * record["fps"])))
    ends = range(0, record["num_frames"], length)
    return [span(record, start, min(length, record["num_frames"] - start)) for start in ends]


def parts(record: dict, root: str | os.PathLike, measures: Measures) -> list[dict]:
    """A slice's parts between its jump cuts, none longer than `cuts.max_frames`."""
    found = cuts.find(record, root, measures)
    judge = cuts.judge_of(measures)
    record = record | {"cuts": {"judge": judge, "skip": measures.cuts.skip}}
    edges = [0, *found, record["num_frames"]]
    spans = [one for first, last in zip(edges, edges[1:]) for one in divided(first, last, measures.cuts.max_frames)]
    return [span(record, record["start"] + first, last - first) for first, last in spans]


def divided(first: int, last: int, longest: int) -> list[tuple[int, int]]:
    """A span in the fewest equal pieces of at most `longest` frames."""
    pieces = max(1, -(-(last - first) // longest))
    edges = [first + (last - first) * i // pieces for i in range(pieces + 1)]
    return list(zip(edges, edges[1:]))
