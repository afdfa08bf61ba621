"""The settings of training data from real files, and what a loader gives to a training."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from mindsora.errors import InputError, shown
from mindsora.shapes import SPATIAL_STRIDE

PATCH = 2  # latents per token along height and along width, of every denoiser here
LINES = ("v1.5", "v1.3")  # whose rules a data set follows


@dataclass(frozen=True)
class VideoData:
    """The section `data` of a recipe that trains on real videos and pictures.

    Attributes:
        merge_file: text file with one data set a line: `folder,annotations`; see `mindsora.data.annotations`.
        frames: of a clip; 1 for pictures alone.
        batch: clips per step on one card.
        size: (height, width) of every clip. Null sorts clips into buckets of at most `max_pixels` instead.
        max_pixels: of a frame, height * width.
        min_pixels: smaller files are dropped; null: size[0] * size[1], or the smallest of the five sizes.
        five_ratios: buckets have one of five aspect ratios (v1.5), or any multiple of `pixel_stride` (v1.3).
        pixel_stride: height and width are multiples of it: latents of 8 pixels, tokens of 2 latents.
        frame_stride: frames per latent after the first; clips have 1 + k * frame_stride frames.
        fps: frames per second of a clip. Files of a higher rate lose frames.
        aspect: lowest and highest height / width.
        min_frames: shortest clip, where clips may be shorter than `frames`.
        sequence_parallel: cards that share a clip's latent frames, which must be a multiple of it.
        windows: parts of a file, chosen once, from which a step takes one; null: any part. A feature cache needs a number.
        drop_short_ratio: share of the clips with fewer than `frames` frames that is dropped. 1 makes every clip equally
            long; below 1, short clips form buckets of their own.
        speed_factor: up to this factor, longer files are played faster.
        too_long_factor: files longer than this many clips are dropped.
        min_bucket_batches: buckets with fewer global batches are dropped. Set 0 for a handful of clips.
        grouped: all clips of a batch come from one bucket. False pads clips of all sizes to the largest, with a mask.
        clean_captions: run the caption cleaner, which also lower-cases.
        keep_chinese: the cleaner keeps CJK ideographs, for text encoders that know them.
        aesthetic_notice: name the quality of clips with a high or low aesthetic score in their captions.
        caption_drop: share of captions that is dropped, for classifier-free guidance.
        default_caption_share: share of the dropped captions that a general sentence replaces, the others being empty.
        workers: processes that decode.
    """

    merge_file: str
    frames: int
    batch: int = 1
    size: tuple[int, int] | None = None
    max_pixels: int | None = None
    min_pixels: int | None = None
    five_ratios: bool = True
    pixel_stride: int = SPATIAL_STRIDE * PATCH
    frame_stride: int = 8
    fps: float = 24.0
    aspect: tuple[float, float] = (0.5, 2.0)
    min_frames: int = 29
    sequence_parallel: int = 1
    windows: int | None = None
    drop_short_ratio: float = 1.0
    speed_factor: float = 1.0
    too_long_factor: float = 5.0
    min_bucket_batches: int = 4
    grouped: bool = True
    clean_captions: bool = True
    keep_chinese: bool = False
    aesthetic_notice: bool = False
    caption_drop: float = 0.1
    default_caption_share: float = 0.0
    workers: int = 2

    def __post_init__(self):
        _require(self.merge_file != "", "merge_file", self.merge_file, "must name a file")
        _require(
            (self.size is None) != (self.max_pixels is None),
            "size, max_pixels",
            f"{self.size}, {self.max_pixels}",
            "give exactly one: `size` for clips of one size, `max_pixels` for buckets",
        )
        for name in ("batch", "frame_stride", "min_frames", "sequence_parallel", "workers"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.windows is None or self.windows >= 1, "windows", self.windows, "must be at least 1, or null")
        for name in ("drop_short_ratio", "caption_drop", "default_caption_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "must lie in [0, 1]")
        for name in ("speed_factor", "too_long_factor"):
            _require(1 <= getattr(self, name) < 1e6, name, getattr(self, name), "must be at least 1; 1 switches it off")
        _require(self.min_bucket_batches >= 0, "min_bucket_batches", self.min_bucket_batches, "must not be negative")
        _require(0 < self.fps <= 1000, "fps", self.fps, "must lie in (0, 1000]")
        _require(0 < self.aspect[0] <= self.aspect[1], "aspect", self.aspect, "must be two rising numbers above 0")
        _require(
            self.pixel_stride >= 1 and self.pixel_stride % (SPATIAL_STRIDE * PATCH) == 0,
            "pixel_stride",
            self.pixel_stride,
            f"must be a multiple of {SPATIAL_STRIDE * PATCH}",
        )
        _check_multiples("size", self.size or (), self.pixel_stride)
        smallest = self.pixel_stride**2
        _require(
            (self.max_pixels or smallest) >= smallest, "max_pixels", self.max_pixels, f"must be at least {smallest}"
        )
        _check_frames(self)

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames and pixels per latent along (time, height, width)."""
        return self.frame_stride, SPATIAL_STRIDE, SPATIAL_STRIDE


class ClipBatch(NamedTuple):
    """What one step trains on.

    Attributes:
        video: (B, T, H, W, 3) float32 in [-1, 1]; bicubic interpolation may leave the range by a little.
        captions: B texts as the encoders see them; dropped ones are empty.
        mask: (B, t, h, w) float32 over latents, 1 for the clip and 0 for padding; None without padding.
        indices: (B,) numbers of the clips in their `ClipSet`.
        failures: messages of the records that could not be read; the batch has others of the same bucket instead.
    """

    video: np.ndarray
    captions: list[str]
    mask: np.ndarray | None
    indices: np.ndarray
    failures: tuple[str, ...] = ()


class Order(Protocol):
    """Which clips the steps of this rank use: a function of the step's number, so resuming needs no other state."""

    def __call__(self, step: int) -> np.ndarray:
        """(batch,) clip numbers of step `step`, from 0."""


def _check_multiples(name: str, values: tuple[int, ...], stride: int) -> None:
    for value in values:
        nearest = max(stride, round(value / stride) * stride)
        _require(
            value >= stride and value % stride == 0,
            name,
            value,
            f"must be a multiple of {stride}; nearest legal: {nearest}",
        )


def _check_frames(data: VideoData) -> None:
    """The clip's length must be legal for the autoencoder and for the cards that share it."""
    unit = data.frame_stride * data.sequence_parallel
    first = 1 if data.frames == 1 else 1 + data.frame_stride * (data.sequence_parallel - 1)
    below = first + max(0, (data.frames - first) // unit) * unit
    _require(
        data.frames == below,
        "frames",
        data.frames,
        f"must be 1, or {first} + {unit}k; nearest legal: {below} or {below + unit}",
    )


def _require(holds: bool, name: str, value, rule: str) -> None:
    if not holds:
        raise InputError(f"data.{name} = {shown(value, quote=False)}: {rule}")
