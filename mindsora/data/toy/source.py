"""Procedural clips as a source: each clip is a function of its number; its caption gets a new wording at each call."""

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from mindsora.data.toy.captions import caption
from mindsora.data.toy.procedural import FPS, SPLITS, Clip, clip, draw


@dataclass(frozen=True)
class ProceduralClips:
    """The first `clips` clips of a split, with `frames` frames of size x size pixels."""

    clips: int
    frames: int
    size: int
    split: str = "train"
    fps = FPS
    template = "nano"

    def __len__(self) -> int:
        return self.clips

    def identity(self) -> dict:
        return asdict(self)

    def video(self, index: int) -> np.ndarray:
        return clip(index, self.split, self.size, self.frames)[0]

    def caption(self, index: int, rng: np.random.RandomState) -> str:
        shown = _shown(index, self.split)
        return caption(shown.things, shown.background, rng, shown.places)


@cache
def _shown(index: int, split: str) -> Clip:
    """The content of clip `index`, without rendering it."""
    return draw(np.random.RandomState([index, SPLITS.index(split)]), split)
