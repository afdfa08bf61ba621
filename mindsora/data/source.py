"""The interface of training data: clips and captions by number."""

from typing import Protocol

import numpy as np


class Source(Protocol):
    """Clips by number, from 0, of one shape.

    Attributes:
        frames: of a clip.
        fps: frames per second.
        template: name of the template in `mindsora.text.templates` for prompts of this kind.
    """

    frames: int
    fps: int
    template: str

    def __len__(self) -> int:
        """Number of clips."""

    def identity(self) -> dict:
        """Everything that determines the clips, as JSON values. Latents of clips with another identity are refused."""

    def video(self, index: int) -> np.ndarray:
        """Clip `index`: (T, H, W, 3) uint8."""

    def caption(self, index: int, rng: np.random.RandomState) -> str:
        """A caption of clip `index`; `rng` chooses among several."""


def as_pixels(video: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return video.astype(np.float32) / 127.5 - 1
