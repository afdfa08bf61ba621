"""Judges that a run names: Python files of the user's with their checksums, NudeNet, a reader of stock agencies' words.

A judge file defines `score(frames)`: (T, H, W, 3) uint8 to one number, or one for each frame, of which the mean counts. It
may define `VERSION`. It runs as code of this process, so its checksum must be given with it.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from mindsora.curate.clips import Box, frames, uniform
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256

IN_PACKAGES = {"nudenet": "unsafe", "words": "watermark"}  # judges that need no file, and what each of them judges


class Sight(NamedTuple):
    """What a judge sees of a clip: how many frames, evenly spread, and how long their longer side may be in pixels."""

    frames: int
    side: int


SIGHT = {
    "aesthetic": Sight(5, 512),
    "technical": Sight(16, 4096),  # at its own size: compression shows in single pixels
    "watermark": Sight(16, 1024),
    "unsafe": Sight(5, 640),
}


class JudgeFile(NamedTuple):
    """A judge file and its checksum; `path` is a name in IN_PACKAGES where there is none."""

    path: str
    sha256: str


def parse(text: str) -> tuple[str, JudgeFile]:
    """NAME=FILE.py@SHA256, unsafe=nudenet or watermark=words, as (name, judge).

    Raises:
        InputError: another form, no such judge or file, or another checksum.
    """
    name, equals, rest = text.partition("=")
    if not equals or name not in SIGHT:
        raise InputError(f"--judge {shown(text)}: write NAME=FILE.py@SHA256 with NAME one of {', '.join(SIGHT)}")
    if rest in IN_PACKAGES:
        if name != IN_PACKAGES[rest]:
            raise InputError(f"--judge {shown(text)}: {rest} judges {IN_PACKAGES[rest]} alone")
        judge = JudgeFile(rest, "")
        version_of(judge)
        return name, judge
    path, at, sha256 = rest.rpartition("@")
    path = path if at else rest
    if not os.path.isfile(path) or Path(path).suffix != ".py":
        raise InputError(f"--judge {shown(text)}: {shown(path)} is no Python file")
    judge = JudgeFile(os.path.abspath(path), sha256 if at else "")
    _check(judge)
    return name, judge


def measure(record: dict, root: str | os.PathLike, name: str, judge: JudgeFile, crop: Box | None) -> float:
    """The judge's score of a clip, of what the crop leaves."""
    sight = SIGHT[name]
    clip = frames(root, record, uniform(record, sight.frames), sight.side, crop)
    try:
        value = float(np.mean(_score(judge)(clip)))
    except InputError:
        raise
    except Exception as error:  # a judge's own code
        raise InputError(f"the judge {shown(judge.path)} failed: {shown(repr(error), quote=False)}") from error
    if not np.isfinite(value):
        raise InputError(f"the judge {shown(judge.path)} gave {value}")
    return value


def version_of(judge: JudgeFile) -> str:
    """Name and version of a judge, for the records."""
    if judge.path in IN_PACKAGES:
        package = {"nudenet": "nudenet", "words": "rapidocr"}[judge.path]
        try:
            return f"{judge.path} {metadata.version(package)}"
        except metadata.PackageNotFoundError as error:
            raise InputError(f"the judge {judge.path} needs its package: pip install {package}") from error
    return f"{Path(judge.path).name} {judge.sha256[:12]}"


@cache
def _score(judge: JudgeFile) -> Callable:
    if judge.path in IN_PACKAGES:
        return {"nudenet": _unsafe, "words": _marked}[judge.path]
    _check(judge)
    module = ModuleType(f"judge_{judge.sha256[:12]}")
    module.__file__ = judge.path
    exec(compile(Path(judge.path).read_bytes(), judge.path, "exec"), module.__dict__)
    if not callable(getattr(module, "score", None)):
        raise InputError(f"the judge {shown(judge.path)} defines no function score(frames)")
    return module.score


def _check(judge: JudgeFile) -> None:
    if (actual := file_sha256(judge.path)) != judge.sha256:
        stated = judge.sha256[:12] or "missing"
        raise InputError(
            f"the judge {shown(judge.path)} has the sha256 {actual}, the stated one is {stated}; read the file, then write "
            f"NAME={shown(judge.path, quote=False)}@{actual}"
        )


def _unsafe(clip: np.ndarray) -> list[float]:
    """The highest confidence of an exposed part in each frame."""
    found = [_nudenet().detect(np.ascontiguousarray(frame[..., ::-1])) for frame in clip]  # BGR
    return [max((one["score"] for one in boxes if "EXPOSED" in one["class"]), default=0.0) for boxes in found]


@cache
def _nudenet():
    from nudenet import NudeDetector

    return NudeDetector()


def _marked(clip: np.ndarray) -> float:
    """1 where a stock agency's word stands in the temporal median of the clip, else 0. Other marks are not found."""
    from mindsora.evaluate.watermark import carries_mark

    marked = carries_mark(clip)
    if marked is None:
        raise InputError("watermark=words cannot judge this clip: frames below 128 pixels with texture, or at rest")
    return float(marked)
