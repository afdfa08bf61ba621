"""Samples of one batch together: padded to one legal size, with a mask over the latents where anything is padding."""

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mindsora.data.settings import PATCH, VideoData


def one_shape(videos: Sequence[np.ndarray], rng: random.Random) -> list[np.ndarray]:
    """Random repeats of the videos with the most frequent shape in place of the others."""
    counts = Counter(video.shape for video in videos)
    major = max(counts, key=counts.get)
    kept = [video for video in videos if video.shape == major]
    return [video if video.shape == major else rng.choice(kept) for video in videos]


def padded_size(frames: int, height: int, width: int, stride: tuple[int, int, int]) -> tuple[int, int, int]:
    """The smallest size of whole latents and tokens that holds frames x height x width."""
    st, sh, sw = stride
    return (
        math.ceil((frames - 1) / st) * st + 1,
        math.ceil(height / (sh * PATCH)) * sh * PATCH,
        math.ceil(width / (sw * PATCH)) * sw * PATCH,
    )


def collate(
    videos: Sequence[np.ndarray], stride: tuple[int, int, int], size: tuple[int, int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Stack videos (T, H, W, 3), with zeros at the end of their axes.

    Args:
        stride: frames and pixels per latent along (time, height, width).
        size: (frames, height, width) that holds every video; None: the largest of the batch.

    Returns:
        (B, T', H', W', 3) float32, and the mask (B, t, h, w) float32: 1 for latents with a part of the video.
    """
    largest = size or tuple(np.max([video.shape[:3] for video in videos], axis=0))
    frames, height, width = padded_size(*largest, stride)
    st, sh, sw = stride
    batch = np.zeros((len(videos), frames, height, width, 3), np.float32)
    mask = np.zeros((len(videos), (frames - 1) // st + 1, height // sh, width // sw), np.float32)
    for i, video in enumerate(videos):
        t, h, w = video.shape[:3]
        batch[i, :t, :h, :w] = video
        mask[i, : math.ceil((t - 1) / st) + 1, : math.ceil(h / sh), : math.ceil(w / sw)] = 1
    return batch, mask


def box_of(buckets: Sequence[str], data: VideoData) -> tuple[int, int, int] | None:
    """The size that batches of mixed buckets are padded to, the same for every batch; None for grouped batches."""
    if data.grouped:
        return None
    return tuple(map(max, zip(*({tuple(map(int, bucket.split("x"))) for bucket in buckets}))))
