"""What a recipe makes of its annotation files, before a training finds out: buckets, drops, unreadable files, a sheet."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mindsora.data.captions import all_captions
from mindsora.data.clips import ClipSet, open_clips
from mindsora.data.collate import padded_size
from mindsora.data.frame_index import grid, legal_length
from mindsora.data.grouped import GroupedOrder
from mindsora.data.loading import decoded, limited, row, unpacked
from mindsora.data.settings import PATCH, VideoData
from mindsora.errors import InputError
from mindsora.media import contact_sheet

SHEET_CLIPS = 12  # on the contact sheet, shared among the buckets


class Bucket(NamedTuple):
    """One shape: its clips, the visual tokens of each, and the steps of an epoch that train on it."""

    name: str
    clips: int
    tokens: int
    steps: int


class Report(NamedTuple):
    """What `check` finds.

    Attributes:
        buckets: the largest first.
        steps: of an epoch.
        dropped: a line for each rule of the filter that dropped records.
        clips: that the filter kept.
        unreadable: a message for each of these that could not be read.
    """

    buckets: list[Bucket]
    steps: int
    dropped: list[str]
    clips: int
    unreadable: list[str]

    def lines(self) -> list[str]:
        """The report as text."""
        width = max(len(bucket.name) for bucket in self.buckets)
        table = [f"{'bucket':{width}}  {'clips':>8}  {'tokens':>8}  {'steps':>8}"]
        table += [f"{name:{width}}  {clips:8}  {tokens:8}  {steps:8}" for name, clips, tokens, steps in self.buckets]
        total = [f"{self.clips} clips, {self.steps} steps per epoch"]
        dropped = [f"dropped: {line}" for line in self.dropped]
        return table + total + dropped + [f"unreadable: {message}" for message in self.unreadable]


def check(data: VideoData, line: str, sheet: str | os.PathLike | None = None, world: int = 1) -> Report:
    """Filter the annotation files of a recipe and read the end of every clip that is left, in `data.workers` processes.

    Args:
        line: one of `mindsora.data.settings.LINES`.
        sheet: .png or .webp, where to write a contact sheet of what the model will see.
        world: cards.

    Raises:
        InputError: an annotation file cannot be read, no clip is left, or the sheet cannot be written.
    """
    clips = open_clips(data, line, world)
    shown, unreadable, videos = _for_sheet(clips) if sheet else (), [], {}
    with decoded(_Ends(clips, shown), data.workers, 2) as rows:
        for index, failures, video in tqdm(map(unpacked, rows), "reading clips", len(clips), disable=None):
            unreadable += failures
            if index in shown and not failures:
                videos[index] = video
    if sheet and videos:
        _write_sheet(clips, videos, sheet)
    order = GroupedOrder(clips.buckets, data.batch, world)
    return Report(list(_buckets(clips, world)), order.steps_per_epoch, clips.dropped.lines(), len(clips), unreadable)


class _Ends:
    """The last sample of every clip as rows, so that a file shorter than its record says is found."""

    def __init__(self, clips: ClipSet, shown: tuple[int, ...]):
        self.clips, self.shown = clips, shown

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = int(index)
        clip, data = self.clips.clips[index], self.clips.data
        numbers = np.zeros(1, np.int64)
        if not clip.is_picture:
            numbers = grid(clip, data)
            numbers = numbers[-legal_length(len(numbers), data) :]
        nothing = np.zeros((1, 1, 1, 3), np.float32)
        try:
            with limited():
                video = self.clips.frames(index, numbers)
        except InputError as error:
            return row(index, [str(error)], nothing)
        return row(index, [], video if index in self.shown else nothing)


def _buckets(clips: ClipSet, world: int) -> Iterator[Bucket]:
    for name, count in clips.counts().most_common():
        t, h, w = padded_size(*map(int, name.split("x")), clips.data.stride)
        st, sh, sw = clips.data.stride
        tokens = ((t - 1) // st + 1) * (h // (sh * PATCH)) * (w // (sw * PATCH))
        yield Bucket(name, count, tokens, math.ceil(count / (clips.data.batch * world)))


def _for_sheet(clips: ClipSet) -> tuple[int, ...]:
    """The first few clips of every bucket."""
    each = max(1, SHEET_CLIPS // len(clips.counts()))
    places: dict[str, list[int]] = {}
    for index, bucket in enumerate(clips.buckets):
        places.setdefault(bucket, []).append(index)
    chosen = [index for indices in places.values() for index in indices[:each]]
    return tuple(chosen[:SHEET_CLIPS])


def _write_sheet(clips: ClipSet, videos: dict[int, np.ndarray], sheet: str | os.PathLike) -> None:
    """A contact sheet with every clip at its own size, on grey where it is smaller than the largest."""
    height, width = np.max([video.shape[1:3] for video in videos.values()], axis=0)
    labels = [f"{clips.bucket(index)}: {all_captions(clips.clips[index], clips.data)[0]}" for index in videos]
    contact_sheet([_on_grey(video, height, width) for video in videos.values()], labels, sheet)


def _on_grey(video: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, H, W, 3) in [-1, 1] -> (T, height, width, 3) uint8."""
    frames = np.full((len(video), height, width, 3), 128, np.uint8)
    top, left = (height - video.shape[1]) // 2, (width - video.shape[2]) // 2
    pixels = np.rint((video + 1).clip(0, 2) * 127.5).astype(np.uint8)
    frames[:, top : top + video.shape[1], left : left + video.shape[2]] = pixels
    return frames
