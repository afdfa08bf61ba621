"""The feature cache: moments of clips and encoded texts on disk, so that a training neither decodes nor encodes them.

A folder holds `index.json`, with the checksums of the encoders, and shards `*.safetensors`. A clip's key is the SHA-256 of
its file's content (length, first and last MiB), frame numbers, crop and size; a text's key is that of the text. Several
processes can fill a folder at once, each with shards of its own.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from mindspore import Tensor
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from mindsora.config import read_json
from mindsora.data.captions import DEFAULTS, all_captions
from mindsora.data.clips import ClipSet
from mindsora.data.loading import Samples, generator
from mindsora.data.settings import ClipBatch, Order
from mindsora.errors import InputError, shown
from mindsora.files import whole_file, write_json
from mindsora.train.encoders import Encoders

INDEX = "index.json"
SHARD_BYTES = 256 * 2**20
TEXTS_AT_ONCE = 8
_EDGE = 2**20  # bytes at each end of a file that decide its key


class Features:
    """The features in a folder, by key.

    Raises:
        InputError: no such folder, a damaged shard, or features of other encoders.
    """

    def __init__(self, folder: Path, encoders: Encoders):
        self.folder = folder
        _check(folder, encoders)
        self.length, self.width = encoders.index.max_text_lengths[0], encoders.configs["text_encoder"].d_model
        self.places = dict(_places(folder))
        self._open = lru_cache(maxsize=64)(_opened)

    def get(self, key: str) -> np.ndarray:
        """One array. Raises _Missing."""
        if key not in self.places:
            raise _Missing(key)
        return self._open(self.places[key]).get_tensor(key)

    def moments(self, clips: ClipSet, index: int, numbers: np.ndarray) -> np.ndarray:
        """(2c, t, h, w) float16. InputError: the file could not be read when the folder was filled."""
        moments = self.get(clip_key(clips, index, numbers))
        if not moments.size:
            raise InputError(f"{shown(clips.clips[index].path)} could not be read when {self.folder} was filled")
        return moments

    def texts(self, captions: list[str]) -> tuple[np.ndarray, ...]:
        """States (B, L, D) float16 and mask (B, L) int32, and pooled text (B, P) where the model has it."""
        try:
            found = [self.get(text_key(caption)) for caption in captions]
            pooled = [self.get(f"pooled/{text_key(c)}") for c in captions if f"pooled/{text_key(c)}" in self.places]
        except _Missing as missing:
            raise InputError(f"{self.folder} lacks a caption: {_FILL}") from missing
        states = np.zeros((len(captions), self.length, self.width), np.float16)
        mask = np.zeros(states.shape[:2], np.int32)
        for row, one in enumerate(found):
            states[row, : len(one)], mask[row, : len(one)] = one, 1
        return (states, mask, np.stack(pooled)) if pooled else (states, mask)


_FILL = "`mindsora data cache --recipe RECIPE` adds what is missing"


class _Missing(Exception):
    """A key that the folder does not have. No InputError, because loaders take another clip after these."""


class _CachedClips:
    """A ClipSet whose videos are moments."""

    def __init__(self, features: Features, clips: ClipSet):
        self.features, self.clips = features, clips
        self.buckets, self.bucket, self.counts = clips.buckets, clips.bucket, clips.counts

    def video(self, index: int, rng) -> np.ndarray:
        return self.features.moments(self.clips, index, self.clips.frame_numbers(index, rng))


def load_moments(
    features: Features, clips: ClipSet, order: Order, numbers: range, seed: int
) -> Iterator[tuple[int, ClipBatch]]:
    """Yield (number, batch) as `mindsora.data.loading.load`, with moments (B, 2c, t, h, w) in place of pixels."""
    samples = Samples(_CachedClips(features, clips), order, numbers, seed)
    for first, number in zip(range(0, len(samples), samples.batch), numbers):
        try:
            rows = [samples[place] for place in range(first, first + samples.batch)]
        except _Missing as missing:
            raise InputError(f"{features.folder} lacks a clip of {clips.data.merge_file}: {_FILL}") from missing
        indices = [int(index[0]) for index, _, _ in rows]
        if -1 in indices:
            raise InputError(
                f"many clips of one bucket could not be read when {features.folder} was filled; see `mindsora data check`"
            )
        captions = [clips.caption(i, generator(seed, number, place, "caption")) for place, i in enumerate(indices)]
        yield number, ClipBatch(np.stack([values for _, values, _ in rows]), captions, None, np.array(indices))


def fill(folder: Path, clips: ClipSet, encoders: Encoders, with_clips: bool, part: int = 0, parts: int = 1) -> dict:
    """Encode what the folder lacks. Returns counts: clips, texts, and files that could not be read.

    Args:
        with_clips: also the clips, not only their texts.
        part, parts: encode every `parts`-th clip only, from number `part` on.

    Raises:
        InputError: the folder has features of other encoders, or cannot be written.
    """
    windows = clips.data.windows if clips.data.frames > 1 else 1
    if with_clips and windows is None:
        raise InputError(
            "data.windows = None: a cache holds a number of windows of each file; give data.windows=1 or more"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / INDEX).exists():
        write_json(folder / INDEX, {"encoders": encoders.checksums()})
    _check(folder, encoders)
    own = range(part, len(clips), parts)
    with _Writer(folder) as writer:
        texts = _fill_texts(writer, clips, own, encoders)
        encoded, unread = _fill_clips(writer, clips, own, windows, encoders) if with_clips else (0, 0)
    return {"clips": encoded, "texts": texts, "unreadable": unread}


def _fill_texts(writer: "_Writer", clips: ClipSet, own: range, encoders: Encoders) -> int:
    texts = {"", *DEFAULTS} | {text for i in own for text in all_captions(clips.clips[i], clips.data)}
    todo = sorted(text for text in texts if text_key(text) not in writer.known)
    for first in tqdm(range(0, len(todo), TEXTS_AT_ONCE), desc="texts", disable=None):
        group = todo[first : first + TEXTS_AT_ONCE]
        padded = group + group[-1:] * (TEXTS_AT_ONCE - len(group))  # another batch size would compile another graph
        ids, mask, *ids_2 = encoders.tokens(padded)
        states, *pooled = (one.asnumpy() for one in encoders.texts(*map(Tensor, (ids, mask, *ids_2))))
        for row, text in enumerate(group):
            arrays = {text_key(text): states[row, : mask[row].sum()]}
            writer.add(arrays | {f"pooled/{text_key(text)}": one[row] for one in pooled})
    return len(todo)


def _fill_clips(writer: "_Writer", clips: ClipSet, own: range, windows: int, encoders: Encoders) -> tuple[int, int]:
    encoded = unread = 0
    for index in tqdm(own, desc="clips", disable=None):
        for numbers in (clips.window(index, window) for window in range(windows)):
            key = clip_key(clips, index, numbers)
            if key in writer.known:
                continue
            try:
                pixels = np.ascontiguousarray(clips.frames(index, numbers).transpose(3, 0, 1, 2)[None])
            except InputError as error:
                tqdm.write(str(error))
                writer.add({key: np.zeros(0, np.float16)})
                unread += 1
                continue
            writer.add({key: encoders.moments(Tensor(pixels)).asnumpy()[0]})
            encoded += 1
    return encoded, unread


def clip_key(clips: ClipSet, index: int, numbers: np.ndarray) -> str:
    """Key of the moments of these frames of a clip."""
    clip = clips.clips[index]
    what = [_content(clip.path), clip.crop, numbers.tolist(), clips.bucket(index), clips.line]
    return f"clip/{hashlib.sha256(json.dumps(what).encode()).hexdigest()}"


def text_key(text: str) -> str:
    """Key of an encoded text."""
    return f"text/{hashlib.sha256(text.encode()).hexdigest()}"


@lru_cache(maxsize=100_000)
def _content(path: str) -> str:
    """What a file's key comes from: its length, and the bytes at both ends. A missing file is one of its own."""
    try:
        with open(path, "rb") as file:
            head, length = file.read(_EDGE), os.fstat(file.fileno()).st_size
            file.seek(max(0, length - _EDGE))
            return hashlib.sha256(f"{length} ".encode() + head + file.read()).hexdigest()
    except OSError:
        return f"missing {path}"


class _Writer:
    """Collects arrays and writes them as shards, also when the process is interrupted.

    Attributes:
        known: keys in the folder, and those added.
    """

    def __init__(self, folder: Path):
        self.folder, self.known = folder, set(dict(_places(folder)))
        self._arrays: dict[str, np.ndarray] = {}

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays |= arrays
        self.known |= arrays.keys()
        if sum(array.nbytes for array in self._arrays.values()) >= SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        if self._arrays:
            with whole_file(self.folder / f"{secrets.token_hex(8)}.safetensors") as temporary:
                save_file({key: np.ascontiguousarray(array) for key, array in self._arrays.items()}, temporary)
            self._arrays = {}

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_) -> None:
        self._write()


def _check(folder: Path, encoders: Encoders) -> None:
    """InputError: no feature folder, or one of other encoders."""
    if not (folder / INDEX).is_file():
        raise InputError(
            f"cache = {shown(str(folder))}: no features there; `mindsora data cache --recipe RECIPE` makes them"
        )
    known, own = read_json(folder / INDEX).get("encoders"), encoders.checksums()
    if known != own:
        known = known if isinstance(known, dict) else {}
        differ = sorted(file for file in own.keys() | known.keys() if own.get(file) != known.get(file))
        raise InputError(
            f"cache = {shown(str(folder))}: its features come from other encoders than {str(encoders.folder)!r}: "
            f"{shown(differ[0])} differs; choose another folder, or remove this one to encode again"
        )


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    """(key, shard) of everything in a folder."""
    for path in sorted(folder.glob("*.safetensors")):
        yield from ((key, path) for key in _opened(path).keys())


def _opened(path: Path):
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{shown(str(path))} is damaged ({error}); remove it and fill the cache again") from error
