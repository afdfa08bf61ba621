"""Long video by continuation: the first frames of each window are the last frames of the window before.

The model sees a window's prompt and those frames and nothing else, so a video can drift; `Drift` measures how far.
Windows hand on the frames that they share and nothing else, so memory does not grow with length.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class LongVideo:
    """One video of several windows, checked before anything loads. `lasting` makes it.

    Attributes:
        request: of every window: its size, steps and guidance. Its prompts are the shots, which share the windows
            evenly and in order: window i of n takes prompt i * prompts // n. Its seed and given frames are the first
            window's.
        num_frames: of the whole video; the last window is cut to it.
        overlap: frames that a window shares with the one before.
        noise_strength: of the noise on every window's given frames, those of the window before included.
    """

    request: Request
    num_frames: int
    overlap: int
    noise_strength: float = 0.0

    @classmethod
    def lasting(
        cls,
        index: ModelIndex,
        request: Request,
        duration: float,
        overlap: int | None = None,
        noise_strength: float = 0.0,
    ) -> LongVideo:
        """A video of so many seconds, whose windows are as `request` says.

        Args:
            duration: seconds.
            overlap: None is whole latent frames, about an eighth of a window.

        Raises:
            InputError: a model that takes text alone; a duration, overlap or noise strength out of range; more prompts
                than windows.
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
        sampling_noise_level(noise_strength, 0.0)  # raises if out of range
        video = cls(request, int(duration * index.fps + 0.5), overlap, noise_strength)
        if len(request.prompts) > video.windows:
            enough = frames + (len(request.prompts) - 2) * (frames - overlap)
            raise InputError(
                f"{len(request.prompts)} prompts for {video.windows} windows: at most one a window; for "
                f"all of them ask for more than {enough / index.fps:.3g} seconds"
            )
        return video

    @property
    def windows(self) -> int:
        frames = self.request.num_frames
        return 1 + max(0, -(-(self.num_frames - frames) // (frames - self.overlap)))

    def window(self, number: int, before: np.ndarray | None) -> Request:
        """The request of a window.

        Args:
            before: the last frames of the window before, (overlap, H, W, 3) uint8; None for the first window.
        """
        request, shot = self.request, self.shot(number)
        given = GivenFrames(request.size, tuple(range(self.overlap)), before) if number else request.given
        return replace(
            request,
            prompts=(request.prompts[shot],),
            negatives=(request.negatives[shot],),
            seed=self.window_seed(number),
            given=given,
            noise_strength=0.0 if given is None else self.noise_strength,
        )

    def shot(self, number: int) -> int:
        """The number of a window's prompt."""
        return number * len(self.request.prompts) // self.windows

    def window_seed(self, number: int) -> int:
        """A window's seed. The first window's is the request's, so that window equals the clip of that request."""
        seed = self.request.seed
        return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) if number else seed

    def record(self, index: ModelIndex) -> dict:
        """The entry of the video in a manifest, which has another for the window."""
        # At a rate such as 23.976, a whole number of frames can be a little longer than the longest legal duration.
        duration = min(self.num_frames / index.fps, MAX_DURATION)
        return {
            "duration": duration,
            "num_frames": self.num_frames,
            "windows": self.windows,
            "overlap": self.overlap,
            "noise_strength": self.noise_strength,
            "prompts": list(self.request.prompts),
        }

    def write_drift(self, path: Path, drift: Drift) -> Path:
        """Write the report beside the video `path`, as FILE.drift.json: whole or not at all. Returns its path."""
        report = drift.report()
        for number, window in enumerate(report["windows"]):
            window |= {"prompt": self.request.prompts[self.shot(number)], "seed": self.window_seed(number)}
        target = path.with_name(f"{path.name}.drift.json")
        with whole_file(target) as temporary:
            text = json.dumps({"file": path.name} | report, indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return target


class _Windows:
    """The requests of all windows, each built when it is asked for, from the frames that came last until then."""

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
    shown, left = deque(maxlen=video.overlap), video.num_frames
    for number, latents in enumerate(pipe.sample(_Windows(video, shown), callback_on_step_end)):
        again = video.overlap if number else 0  # frames that the window before has shown already
        for piece in map(to_uint8, pipe.decode_chunks(latents, video.request.tile)):
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
