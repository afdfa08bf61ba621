"""Who judges VBench's dimensions: arithmetic, optical flow, networks given as files, answers of programs run elsewhere.

An image network is an ONNX file. What goes in and what comes out:

raft       two (1, 3, H, W) of 0..255, H and W multiples of 8 -> flow (1, 2, H, W)
amt        two (1, 3, H, W) of 0..1, H and W multiples of 16 -> the frame between them (1, 3, H, W)
dino       (1, 3, h, w), short side 224, ImageNet's mean and deviation -> (1, D)
clip       (1, 3, 224, 224), centre crop, CLIP's mean and deviation -> (1, D)
aesthetic  as clip -> LAION's score of the picture, 0..10: CLIP L/14, features divided by their norm, the linear head
musiq      (1, 3, h, w) of 0..1, longer side at most 512 -> 0..100

The others are large detectors and captioners, whose answers come as a JSON file
`{"name": ..., "version": ..., "clips": {file name without suffix: answer}}`, for the frames of `middle_frames(T, 16)`:

grit       of each frame a list of {"label": ..., "caption": ..., "box": [x0, y0, x1, y1]}
tag2text   of each frame a caption
umt        {label of Kinetics-400: sigmoid}
clip_text  of every frame of the clip the logit of picture and text, 0..100
viclip     the cosine of clip and text
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.evaluate.measures import Clip, Judge
from mindsora.evaluate.networks import Network
from mindsora.files import file_sha256

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LEAST_FLOW = 16  # pixels of a side, for OpenCV's flow
MAX_ANSWERS = 512 * 2**20  # bytes

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two frames (H, W, 3) uint8 -> (H, W, 2), pixels


def dis_flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """OpenCV's dense inverse search (Kroeger et al. 2016), where RAFT is not given."""
    gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (a, b)]
    return _dis().calc(*gray, None)


@cache
def _dis():
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


DIS = Judge("OpenCV DIS optical flow", cv2.__version__, "proxy")


def raft_flow(network: Network) -> Flow:
    def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        height, width = a.shape[:2]
        top, left = -height % 8 // 2, -width % 8 // 2
        x, y = (_planes(_padded(frame, 8).astype(np.float32)) for frame in (a, b))
        return network(x, y)[0].transpose(1, 2, 0)[top : top + height, left : left + width]

    return flow


def amt_interpolation(network: Network) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        height, width = a.shape[:2]
        top, left = -height % 16 // 2, -width % 16 // 2
        x, y = (_planes(_padded(frame, 16) / np.float32(255)) for frame in (a, b))
        middle = network(x, y)[0].transpose(1, 2, 0)[top : top + height, left : left + width]
        return np.rint(middle.clip(0, 1) * 255).astype(np.uint8)

    return between


def _padded(frame: np.ndarray, multiple: int) -> np.ndarray:
    """The frame with its edges repeated on both sides, until height and width are multiples."""
    height, width = (-side % multiple for side in frame.shape[:2])
    sides = ((height // 2, height - height // 2), (width // 2, width - width // 2), (0, 0))
    return np.pad(frame, sides, mode="edge")


def _planes(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32)


def scaled(frame: np.ndarray, short: int, interpolation: int) -> np.ndarray:
    """The frame (H, W, 3) in float, its short side scaled to `short` without antialiasing, the long one cut to whole."""
    height, width = frame.shape[:2]
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    return cv2.resize(frame.astype(np.float32), size, interpolation=interpolation)


def dino_input(frame: np.ndarray) -> np.ndarray:
    return _planes((scaled(frame, 224, cv2.INTER_LINEAR) / 255 - IMAGENET[0]) / IMAGENET[1])


def clip_input(frame: np.ndarray) -> np.ndarray:
    picture = scaled(frame, 224, cv2.INTER_CUBIC).clip(0, 255)
    top, left = (round((side - 224) / 2) for side in picture.shape[:2])
    return _planes((picture[top : top + 224, left : left + 224] / 255 - CLIP_PIXELS[0]) / CLIP_PIXELS[1])


def musiq_input(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = min(1.0, 512 / max(height, width))
    size = (int(scale * width), int(scale * height))
    return _planes(cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) / 255)


def features(network: Network, prepare: Callable[[np.ndarray], np.ndarray], frames: np.ndarray) -> np.ndarray:
    """What a network says of every frame: (T, D), float64."""
    return np.stack([network(prepare(frame)).reshape(-1) for frame in frames]).astype(np.float64)


class Answers:
    """Answers of a program that was run elsewhere. InputError: another form."""

    def __init__(self, path: Path):
        content = read_json(path, MAX_ANSWERS)
        if not isinstance(content.get("clips"), dict) or not all(
            isinstance(content.get(key), str) for key in ("name", "version")
        ):
            raise InputError(f"answers {shown(path)} need name, version and clips, see docs/evaluation.md")
        self.path, self._clips = path, content["clips"]
        self.judge = Judge(content["name"], content["version"], "model", file_sha256(path))

    def of(self, clip: Clip):
        """The answer for a clip. InputError: there is none."""
        if clip.item.name not in self._clips:
            raise InputError(f"answers {shown(self.path)} have none for {shown(clip.item.name)}")
        return self._clips[clip.item.name]

    def scored(self, score: Callable[[Clip, object], float | None]) -> Callable[[Clip], float | None]:
        """clip -> score of its answer. InputError: an answer of another form."""

        def of_clip(clip: Clip) -> float | None:
            answer = self.of(clip)
            try:
                return score(clip, answer)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
                if isinstance(error, InputError):
                    raise
                where = f"answers {shown(self.path)} for {shown(clip.item.name)}"
                raise InputError(
                    f"{where} are not of the form in docs/evaluation.md: {shown(repr(error), quote=False)}"
                ) from None

        return of_clip
