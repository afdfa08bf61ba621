"""Which frames of a file make a clip, and how many: the clip's rate, its length, and a random start."""

import random

import numpy as np

from mindsora.data.annotations import Clip
from mindsora.data.settings import VideoData

SAME_RATE = 0.1  # frames per second; upstream counts rates that differ by less as equal


def interval(fps: float, train_fps: float) -> float:
    """Frames of the file per frame of the clip; below 1, frames would repeat."""
    return 1.0 if abs(fps - train_fps) < SAME_RATE else fps / train_fps


def grid(clip: Clip, data: VideoData) -> np.ndarray:
    """Numbers of the file's frames at the clip's rate, over the whole span of a video."""
    end = clip.start + clip.num_frames
    numbers = np.floor(np.arange(clip.start, end, interval(clip.fps, data.fps))).astype(np.int64)
    numbers = numbers[numbers < end]
    longer = len(numbers) / data.frames
    if longer > 1 and data.speed_factor > 1:
        # At least `frames`: the quotient of the quotient may fall just below it.
        faster = max(data.frames, int(len(numbers) / min(data.speed_factor, longer)))
        numbers = numbers[np.linspace(0, len(numbers) - 1, faster, dtype=int)]
    return numbers


def legal_length(available: int, data: VideoData) -> int:
    """The longest legal clip of at most `available` and `frames` frames; 0 if there is none.

    A clip is 1 + k * frame_stride frames; its latent frames divide among the cards that share it.
    """
    if data.drop_short_ratio >= 1 and available < data.frames:
        return 0
    longest = min(available, data.frames)
    latents = (longest - 1) // data.frame_stride + 1
    latents -= latents % data.sequence_parallel
    length = (latents - 1) * data.frame_stride + 1
    return length if length >= min(data.min_frames, data.frames) else 0


def draw_frames(clip: Clip, data: VideoData, rng: random.Random) -> np.ndarray:
    """Numbers of the frames of one sample, ascending; empty if the file is too short. `rng` draws the start.

    The last possible start is never drawn, as in upstream.
    """
    if clip.is_picture:
        return np.zeros(1, np.int64)
    numbers = grid(clip, data)
    length = legal_length(len(numbers), data)
    begin = rng.randint(0, max(0, len(numbers) - data.frames - 1))
    return numbers[begin : begin + length]
