"""The clips of an evaluation, one after another: memory does not grow with their number."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindsora import manifest
from mindsora.errors import InputError, shown
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Clip
from mindsora.media import stream_video

MAX_CLIP = 2**30  # bytes of a clip's frames in memory: 390 frames of 720 x 1280


@dataclass(frozen=True)
class Unreadable:
    """An item whose clip cannot be judged, and why."""

    item: Item
    reason: str


def clips_in(files: Mapping[str, Path], items: Sequence[Item]) -> Iterator[Clip | Unreadable]:
    """The clip of every item, or the reason why there is none.

    files: stem of a file -> its path, as `videos_of` returns them.
    """
    for item in items:
        try:
            yield read_clip(files, item)
        except InputError as error:
            yield Unreadable(item, str(error))


def read_clip(files: Mapping[str, Path], item: Item) -> Clip:
    """The clip of one item.

    Raises:
        InputError: a file that is missing or cannot be read, shots of several sizes, or more than MAX_CLIP bytes.
    """
    absent = [stem for stem in item.stems if stem not in files]
    if absent:
        raise InputError(f"no video is named {shown(absent[0])}")
    paths = tuple(files[stem] for stem in item.stems)
    shots, rates = zip(*(_read(path) for path in paths))
    if len({shot.shape[1:] for shot in shots}) > 1:
        raise InputError(f"the shots of {shown(item.name)} are of several sizes; make them of one")
    starts = tuple(int(start) for start in np.cumsum([0, *map(len, shots)])[:-1])
    manifests = tuple(manifest.read(manifest.beside(path)) for path in paths if manifest.beside(path).is_file())
    return Clip(item, np.concatenate(shots), rates[0], starts, paths, manifests)


def _read(path: Path) -> tuple[np.ndarray, float]:
    gc.collect(1)  # PyAV's decoders hold themselves in cycles; left to itself each clip would add 0.3 MB
    frames, fps = stream_video(path)
    read, size = [], 0
    for frame in frames:
        read.append(frame)
        size += frame.nbytes
        if size > MAX_CLIP:
            raise InputError(f"video {shown(path)} has more than {MAX_CLIP // 2**20} MiB of frames; cut it")
    return np.stack(read), fps
