"""Clips of real files by number: the pixels and the caption that a training step sees."""

import os
import random
from collections import Counter

import numpy as np

from mindsora.data import sizes
from mindsora.data.annotations import Clip, read_merge_file
from mindsora.data.captions import draw_caption
from mindsora.data.filtering import Dropped, filter_clips
from mindsora.data.frame_index import draw_frames
from mindsora.data.resize import INTERPOLATION, resize
from mindsora.data.settings import LINES, VideoData
from mindsora.errors import InputError, shown
from mindsora.media import read_frames, read_picture


def open_clips(data: VideoData, line: str, world: int = 1) -> "ClipSet":
    """The clips of a recipe's annotation files.

    Args:
        line: one of LINES, whose rules apply.
        world: cards, for the number of clips that a bucket needs.

    Raises:
        InputError: a file cannot be read, or no clip is left; the message counts the reasons.
    """
    if line not in LINES:
        raise InputError(f"line = {shown(line)}: must be one of {', '.join(LINES)}")
    return ClipSet(*filter_clips(read_merge_file(data.merge_file), data, line, world), data, line)


class ClipSet:
    """Clips that passed the filter, each in a bucket.

    Attributes:
        dropped: what the filter dropped, by reason.
    """

    def __init__(self, clips: list[Clip], buckets: list[str], dropped: Dropped, data: VideoData, line: str):
        self.clips, self.buckets, self.dropped, self.data, self.line = clips, buckets, dropped, data, line

    def __len__(self) -> int:
        return len(self.clips)

    def bucket(self, index: int) -> str:
        """The shape of clip `index`: frames x height x width, such as "29x256x256"."""
        return self.buckets[index]

    def counts(self) -> Counter:
        """Clips of every bucket."""
        return Counter(self.buckets)

    def caption(self, index: int, rng: random.Random) -> str:
        """A caption of clip `index`, as the encoders see it."""
        return draw_caption(self.clips[index], self.data, rng)

    def frame_numbers(self, index: int, rng: random.Random) -> np.ndarray:
        """The frames of clip `index` that one sample has, ascending."""
        if self.data.windows is not None:
            return self.window(index, rng.randrange(self.data.windows))
        return draw_frames(self.clips[index], self.data, rng)

    def window(self, index: int, number: int) -> np.ndarray:
        """The frames of window `number` of clip `index`, the same in every run and wherever the file lies."""
        clip = self.clips[index]
        name = os.path.basename(clip.path)
        return draw_frames(clip, self.data, random.Random(f"{name}/{clip.start}/{clip.num_frames}/{number}"))

    def video(self, index: int, rng: random.Random) -> np.ndarray:
        """A sample of clip `index`, as `frames`; `rng` draws which frames."""
        return self.frames(index, self.frame_numbers(index, rng))

    def frames(self, index: int, numbers: np.ndarray) -> np.ndarray:
        """These frames of clip `index`: (T, H, W, 3) float32 in [-1, 1], of the bucket's shape.

        Raises:
            InputError: the file cannot be read, or makes no clip of this bucket.
        """
        clip = self.clips[index]
        frames = self._frames(clip, numbers)
        left, right, top, bottom = clip.crop or (0, frames[0].shape[1], 0, frames[0].shape[0])
        fit = sizes.fit(bottom - top, right - left, self.data)
        bucket = f"{len(frames)}x{fit.keep.height}x{fit.keep.width}"
        if bucket != self.buckets[index]:
            raise InputError(
                f"{shown(clip.path)} has frames of {frames[0].shape[1]} x {frames[0].shape[0]} pixels, its record says "
                f"{clip.width} x {clip.height}: {bucket} instead of {self.buckets[index]}"
            )
        return np.stack([self._sample(frame[top:bottom, left:right], fit) for frame in frames])

    def _frames(self, clip: Clip, numbers: np.ndarray) -> list[np.ndarray]:
        if clip.is_picture:
            return [np.asarray(read_picture(clip.path))]
        return read_frames(clip.path, numbers)

    def _sample(self, frame: np.ndarray, fit: sizes.Fit) -> np.ndarray:
        """A frame (H, W, 3) uint8 cropped, resized and scaled to [-1, 1]."""
        # Scaled after the resizing, which is linear: it has far fewer pixels by then.
        frame = _part(resize(_part(frame, fit.crop), *fit.resize, INTERPOLATION[self.line]), fit.keep)
        return frame * np.float32(2 / 255) - 1


def _part(frame: np.ndarray, box: sizes.Box) -> np.ndarray:
    return frame[box.top : box.top + box.height, box.left : box.left + box.width]
