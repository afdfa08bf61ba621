"""Long video by continuation: windows, each of which is given the last frames of the one before as its first.

The model knows nothing of a window but its prompt and those frames, so that a video can drift; `Drift` measures how far
it did. What is kept between windows is the frames they share: memory does not grow with length.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from mindsora.data.frame_masks import sampling_noise_level
from mindsora.errors import InputError
from mindsora.files import whole_file
from mindsora.media import to_uint8
from mindsora.pipelines.drift import Drift
from mindsora.pipelines.given_frames import GivenFrames
from mindsora.pipelines.request import Request
from mindsora.runtime import return_freed_memory
from mindsora.zoo import ModelIndex

MAX_DURATION = 3600  # seconds; a mistyped duration is refused before it asks for a week's work


@dataclass(frozen=True, kw_only=True)
class LongVideo(Request):
    """A request for one video of several windows, checked before anything loads. Make it with `lasting`.

    Its size is a window's. Its prompts are the shots, which share the windows evenly and in order: window i of n takes
    prompt i * prompts // n. What it is given belongs to the first window.

    Attributes:
        length: frames of the whole video; the last window is cut to it.
        overlap: frames that a window is given of the one before.
        noise_strength: of the noise on given frames, those of the windows before included.
    """

    length: int
    overlap: int

    @classmethod
    def lasting(
        cls,
        index: ModelIndex,
        request: Request,
        duration: float,
        overlap: int | None = None,
        noise_strength: float = 0.0,
    ) -> LongVideo:
        """A request for one window made one for a whole video.

        Args:
            duration: seconds.
            overlap: None is whole latent frames, about an eighth of a window.

        Raises:
            InputError: a model that takes text alone, a duration or overlap out of range, more prompts than windows.
        """
        index.check_takes_frames("duration: windows are chained by given frames")
        shortest = 1 / index.fps
        if not (math.isfinite(duration) and shortest <= duration <= MAX_DURATION):
            nearest = MAX_DURATION if duration > MAX_DURATION else math.ceil(shortest * 1000) / 1000
            raise InputError(
                f"duration = {duration:g} seconds: must be from one frame, {shortest:.3g}, to "
                f"{MAX_DURATION}; nearest legal: {nearest:g}"
            )
        frames, stride = request.size[0], index.vae_stride[0]
        if frames <= stride:
            raise InputError(
                f"num_frames = {frames}: a window of a long video must go on from what it is given; "
                f"nearest legal: {1 + stride}"
            )
        if overlap is None:
            latents = (frames - 1) // stride  # behind the first
            overlap = 1 + stride * min(max(latents // 8, 1), latents - 1)
        if not 1 <= overlap < frames:
            raise InputError(
                f"overlap = {overlap} frames: must be from 1 to {frames - 1}, a window having {frames}; "
                f"nearest legal: {min(max(overlap, 1), frames - 1)}"
            )
        sampling_noise_level(noise_strength, 0.0)  # its error, where it is out of range
        asked = vars(request) | {"noise_strength": noise_strength}
        video = cls(**asked, length=int(duration * index.fps + 0.5), overlap=overlap)
        if len(request.prompts) > video.windows:
            enough = frames + (len(request.prompts) - 2) * (frames - overlap)
            raise InputError(
                f"{len(request.prompts)} prompts for {video.windows} windows: at most one a window; for "
                f"all of them ask for more than {enough / index.fps:.3g} seconds"
            )
        return video

    @property
    def num_frames(self) -> int:
        return self.length

    @property
    def windows(self) -> int:
        frames = self.size[0]
        return 1 + max(0, -(-(self.length - frames) // (frames - self.overlap)))

    def window(self, number: int, before: np.ndarray | None) -> Request:
        """The request of a window.

        Args:
            before: the last frames of the window before, (overlap, H, W, 3) uint8; the first window has none.
        """
        shot = self.shot(number)
        given = GivenFrames(self.size, tuple(range(self.overlap)), before) if number else self.given
        asked = {field.name: getattr(self, field.name) for field in fields(Request)}
        return Request(
            **asked
            | {
                "prompts": (self.prompts[shot],),
                "negatives": (self.negatives[shot],),
                "seed": self.window_seed(number),
                "given": given,
                "noise_strength": 0.0 if given is None else self.noise_strength,
            }
        )

    def shot(self, number: int) -> int:
        """Which of the prompts makes a window."""
        return number * len(self.prompts) // self.windows

    def window_seed(self, number: int) -> int:
        """A window's seed; the first one's is the video's, so that it is the clip that a plain request gives."""
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]) if number else self.seed

    def record(self, index: ModelIndex) -> dict:
        """What a manifest says of it, beside what it says of a window."""
        # Of a rate such as 23.976, a whole number of frames can be a little longer than the longest legal duration.
        duration = min(self.length / index.fps, MAX_DURATION)
        return {
            "duration": duration,
            "num_frames": self.length,
            "windows": self.windows,
            "overlap": self.overlap,
            "noise_strength": self.noise_strength,
            "prompts": list(self.prompts),
        }

    def write_drift(self, path: Path, drift: Drift) -> Path:
        """Write the report beside the video `path`, as FILE.drift.json: whole or not at all. Returns its path."""
        report = drift.report()
        for number, window in enumerate(report["windows"]):
            window |= {"prompt": self.prompts[self.shot(number)], "seed": self.window_seed(number)}
        target = path.with_name(f"{path.name}.drift.json")
        with whole_file(target) as temporary:
            text = json.dumps({"file": path.name} | report, indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return target


class _Windows:
    """The requests of all windows; each is made when it is asked for, of the frames shown last until then."""

    def __init__(self, video: LongVideo, shown: deque):
        self.video, self.shown = video, shown

    def __len__(self) -> int:
        return self.video.windows

    def __iter__(self) -> Iterator[Request]:
        for number in range(len(self)):
            yield self.video.window(number, np.stack(self.shown) if number else None)


def stream(pipe, video: LongVideo, drift: Drift, callback_on_step_end=None) -> Iterator[np.ndarray]:
    """The frames of a long video as they are made, piece after piece: (n, H, W, 3) uint8.

    Args:
        pipe: an ImageToVideoPipeline.
        drift: is told of every frame and of every window's end.
        callback_on_step_end: as the pipeline's call has it.
    """
    shown, left = deque(maxlen=video.overlap), video.length
    for number, latents in enumerate(pipe.sample(_Windows(video, shown), callback_on_step_end)):
        again = video.overlap if number else 0  # frames that the window before has shown already
        for piece in map(to_uint8, pipe.decode_chunks(latents, video.tile)):
            shown.extend(frame.copy() for frame in piece[-video.overlap :])  # not views, which would keep the pieces
            again, piece = max(0, again - len(piece)), piece[again:][:left]
            left -= len(piece)
            if len(piece):
                drift.add(piece)
                yield piece
            if not left:
                break
        drift.end_window()
        return_freed_memory()
