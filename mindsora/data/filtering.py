"""The filter pass: which records of the annotation files a stage can train on, and in which bucket."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindsora.data import frame_index, sizes
from mindsora.data.annotations import BadRecord, Clip, DataSet, clip_of, read_records
from mindsora.data.settings import VideoData
from mindsora.errors import InputError, shown

REASONS = {
    "malformed": "a key is missing or has a wrong value",
    "kind": "neither a video nor a picture by its name",
    "caption": "no caption",
    "resolution": "no height and width",
    "aspect": "too tall or too wide",
    "raw_too_small": "the file has too few pixels",
    "sample_too_small": "too few pixels at the bucket's size",
    "forced_too_small_after_aspect_scale": "too few pixels once cropped to the clip's ratio",
    "too_long": "too long",
    "fps_too_low": "fewer frames per second than the clip",
    "too_short": "too short",
    "rare_bucket": "its bucket has too few clips",
}
DROP_SEED = 42  # of the draws that drop a share of the short clips
_EXAMPLES = 3  # records that are named for each reason


@dataclass
class Dropped:
    """Counts and the first few records for each reason."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, record: str) -> None:
        self.counts[reason] += 1
        if self.counts[reason] <= _EXAMPLES:
            self.examples.setdefault(reason, []).append(record)

    def lines(self) -> list[str]:
        """One line for each reason, in the order of the rules, with a few records by name."""
        return [
            f"{self.counts[reason]} {text} ({reason}): {'; '.join(self.examples[reason])}"
            + (", ..." if self.counts[reason] > _EXAMPLES else "")
            for reason, text in REASONS.items()
            if self.counts[reason]
        ]


def filter_clips(
    sets: list[DataSet], data: VideoData, line: str, world: int = 1
) -> tuple[list[Clip], list[str], Dropped]:
    """All usable clips of some annotation files, their buckets, and what was dropped.

    Args:
        line: one of `mindsora.data.settings.LINES`; their rules and the order of the rules differ.
        world: cards, for the number of clips that a bucket needs.

    Raises:
        InputError: an annotation file cannot be read, or nothing is left; the message counts the reasons.
    """
    dropped, clips, buckets = Dropped(), [], []
    draws = np.random.default_rng(DROP_SEED)
    for name, record, folder in _numbered(sets):
        try:
            clip = clip_of(record, folder)
            reason, bucket = judge(clip, data, line, draws)
        except BadRecord as bad:
            dropped.add(bad.reason, f"{name}: {bad}")
            continue
        if reason:
            dropped.add(reason, shown(clip.path))
        else:
            clips.append(clip)
            buckets.append(bucket)
    clips, buckets = _drop_rare(clips, buckets, data.min_bucket_batches * data.batch * world, dropped)
    if not clips:
        reasons = "; ".join(dropped.lines()) or "the annotation files hold no record"
        raise InputError(f"data.merge_file = {shown(data.merge_file)}: no clip is left to train on: {reasons}")
    return clips, buckets, dropped


def judge(clip: Clip, data: VideoData, line: str, draws: np.random.Generator) -> tuple[str | None, str]:
    """The first rule that drops a clip, or None, and the clip's bucket: "frames x height x width".

    draws: one number per short clip, where a share of them is dropped.
    """
    reason, height, width = (_size_v1_5 if line == "v1.5" else _size_v1_3)(clip, data)
    if reason:
        return reason, ""
    reason, frames = (None, 1) if clip.is_picture else _length(clip, data, line, draws)
    return reason, "" if reason else f"{frames}x{height}x{width}"


def _size_v1_5(clip: Clip, data: VideoData) -> tuple[str | None, int, int]:
    height, width = clip.seen
    least = sizes.min_pixels(data)
    if not data.aspect[0] <= height / width <= data.aspect[1]:
        return "aspect", 0, 0
    if height * width < least:
        return "raw_too_small", 0, 0
    if data.size:
        return (
            "forced_too_small_after_aspect_scale" if _too_small_once_cropped(height, width, data) else None,
            *data.size,
        )
    rows, columns = sizes.fit(height, width, data).keep[2:]
    return ("sample_too_small" if rows * columns < max(least, 1) else None), rows, columns


def _too_small_once_cropped(height: int, width: int, data: VideoData) -> bool:
    """Whether the crop to the clip's ratio leaves fewer pixels than `min_pixels`."""
    ratio, target = height / width, data.size[0] / data.size[1]
    return height * width < math.ceil(sizes.min_pixels(data) * max(ratio / target, target / ratio))


def _size_v1_3(clip: Clip, data: VideoData) -> tuple[str | None, int, int]:
    """v1.3 looks at the sample's size alone; with a fixed size the window of ratios is relative to that size's."""
    height, width = clip.seen
    rows, columns = sizes.fit(height, width, data).keep[2:]
    if rows * columns < max(sizes.min_pixels(data), 1):
        return "sample_too_small", 0, 0
    if data.size:
        low, high, ratio = *(bound * data.size[0] / data.size[1] for bound in data.aspect), height / width
    else:
        low, high, ratio = *data.aspect, rows / columns
    return ("aspect" if not low <= ratio <= high else None), rows, columns


def _length(clip: Clip, data: VideoData, line: str, draws: np.random.Generator) -> tuple[str | None, int]:
    if clip.num_frames > data.too_long_factor * (data.frames * clip.fps / data.fps * data.speed_factor):
        return "too_long", 0
    if line == "v1.5" and frame_index.interval(clip.fps, data.fps) < 1:
        return "fps_too_low", 0
    available = len(frame_index.grid(clip, data))
    if available < data.frames and draws.random() < data.drop_short_ratio:
        return "too_short", 0
    length = frame_index.legal_length(available, data)
    return (None if length else "too_short"), length


def _numbered(sets: list[DataSet]) -> Iterator[tuple[str, Any, Path]]:
    """(name for messages, record, folder) of every record."""
    for one in sets:
        name = shown(one.annotations, quote=False)
        for number, record in enumerate(read_records(one.annotations), 1):
            yield f"{name}, record {number}", record, one.folder


def _drop_rare(clips: list[Clip], buckets: list[str], least: int, dropped: Dropped) -> tuple[list[Clip], list[str]]:
    """Drop whole buckets of fewer than `least` clips: each bucket costs a compiled graph."""
    counts = Counter(buckets)
    for clip, bucket in zip(clips, buckets):
        if counts[bucket] < least:
            dropped.add("rare_bucket", f"{shown(clip.path)} in {bucket} ({counts[bucket]} of {least} clips)")
    kept = [i for i, bucket in enumerate(buckets) if counts[bucket] >= least]
    return [clips[i] for i in kept], [buckets[i] for i in kept]
