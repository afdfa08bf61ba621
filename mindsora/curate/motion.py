"""How much a clip moves: the mean over its pairs of sampled frames."""

import os

import cv2
import numpy as np

from mindsora.curate.clips import Box, every, frames, grey
from mindsora.curate.perceptual import LPIPS_SIDE, distances
from mindsora.curate.settings import Measures

FLOW_SIDE = 128  # pixels of the longer side; the flow of a whole clip takes a fraction of its decoding


def measure(record: dict, root: str | os.PathLike, measures: Measures, crop: Box | None) -> float:
    """The motion score of a clip, of what the crop leaves."""
    numbers = every(record, measures.motion.skip)
    if measures.motion.judge == "lpips":
        values = distances(frames(root, record, numbers, LPIPS_SIDE, crop), measures)
    else:
        values = flow(frames(root, record, numbers, FLOW_SIDE, crop))
    return float(np.mean(values)) if len(values) else 0.0


def flow(clip: np.ndarray) -> np.ndarray:
    """(T - 1,) mean length of the optical flow (Farneback) of successive frames, as a share of the longer side.

    clip: (T, H, W, 3) uint8.
    """
    pictures, longest = grey(clip), max(clip.shape[1:3])
    return np.array([_flow(one, other) / longest for one, other in zip(pictures, pictures[1:])])


def _flow(one: np.ndarray, other: np.ndarray) -> float:
    # 3 scales of 1/2, windows of 15 pixels, 3 rounds, polynomials over 5 pixels: the values of OpenCV's example
    field = cv2.calcOpticalFlowFarneback(one, other, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(np.hypot(field[..., 0], field[..., 1]).mean())
