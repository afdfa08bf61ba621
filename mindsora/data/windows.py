"""Random windows of real videos and photographs as a source, mixed with another source's clips."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from mindsora.data.source import Source
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.media import read_picture, read_video

MAX_SHORT_SIDE = 360  # pixels kept in memory of a frame; windows are scaled further down
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PHOTO_ZOOM = 1.25  # largest change of scale of a still over a window


@dataclass(frozen=True)
class Windows:
    """Windows of `frames` x `size` x `size` pixels from the videos and pictures in a folder; no captions.

    Window `index` is a function of its number: the file (with weight log2(1 + its frames), so that a long video does not
    hide the photographs), the scale, the place, the first frame, a mirror image, and over a photograph a pan and a zoom.
    All files are decoded once and stay in memory.

    Raises:
        InputError: no such folder, no file in it, a file that cannot be decoded, or a frame smaller than a window.
    """

    clips: int
    frames: int
    size: int
    folder: Path
    seed: int = 0
    fps = 25
    template = "nano"

    def __len__(self) -> int:
        return self.clips

    def identity(self) -> dict:
        files = {path.name: file_sha256(path) for path in self.paths}
        return {"clips": self.clips, "frames": self.frames, "size": self.size, "seed": self.seed, "files": files}

    @cached_property
    def paths(self) -> list[Path]:
        """The files of the folder, by name."""
        paths = sorted(path for path in Path(self.folder).glob("*") if path.is_file()) if self.folder else []
        if not paths:
            raise InputError(f"data.folder = {shown(str(self.folder))}: no files; give a folder of videos or pictures")
        return paths

    @cached_property
    def videos(self) -> list[np.ndarray]:
        """Frames (T, H, W, 3) uint8 of every file, shrunk to a short side of at most MAX_SHORT_SIDE pixels."""
        videos = [_shrunk(_read(path)) for path in self.paths]
        for path, video in zip(self.paths, videos):
            if min(video.shape[1:3]) < self.size:
                raise InputError(
                    f"data.folder: {shown(path.name)} is {video.shape[2]} x {video.shape[1]}, smaller than the windows of "
                    f"{self.size} pixels; remove it"
                )
        return videos

    @cached_property
    def _weights(self) -> np.ndarray:
        weights = np.log2(1 + np.array([len(video) for video in self.videos]))
        return weights / weights.sum()

    def video(self, index: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, index))
        video = self.videos[rng.choice(len(self.videos), p=self._weights)]
        boxes = self._boxes(rng, *video.shape[1:3], moves=len(video) < self.frames)
        if len(video) < self.frames:
            chosen = np.zeros(self.frames, int) + rng.integers(len(video))
        else:
            chosen = rng.integers(len(video) - self.frames + 1) + np.arange(self.frames)
        window = np.stack([_cut(video[t], box, self.size) for t, box in zip(chosen, boxes)])
        return window[:, :, ::-1] if rng.random() < 0.5 else window

    def caption(self, index: int, rng: np.random.RandomState) -> str:
        return ""

    def _boxes(self, rng: np.random.Generator, height: int, width: int, moves: bool) -> np.ndarray:
        """(frames, 3) left, top and side of the square that a frame of the window shows; it moves over a still."""
        largest = min(height, width)
        sides = np.repeat(self.size * (largest / self.size) ** rng.random(), 2)  # log-uniform from own scale to all
        if moves:
            sides[1] = np.clip(sides[0] * PHOTO_ZOOM ** rng.uniform(-1, 1), self.size, largest)
        places = rng.random((2, 2))
        if not moves:
            places[1] = places[0]
        ends = np.column_stack((places * (np.array([width, height]) - sides[:, None]), sides))
        if moves:  # a still pans over part of the picture, at most one window's side
            ends[1, :2] = ends[0, :2] + np.clip(ends[1, :2] - ends[0, :2], -sides[0] / 2, sides[0] / 2)
            ends[1, :2] = np.clip(ends[1, :2], 0, np.array([width, height]) - sides[1])
        return np.linspace(*ends, self.frames)


@dataclass(frozen=True)
class Mixed:
    """Clips of two sources of one shape: clip `index` comes from `other` with the probability `share`."""

    source: Source
    other: Source
    share: float

    @property
    def frames(self) -> int:
        return self.source.frames

    @property
    def fps(self) -> int:
        return self.source.fps

    @property
    def template(self) -> str:
        return self.source.template

    def __len__(self) -> int:
        return min(len(self.source), len(self.other))

    def identity(self) -> dict:
        return {"source": self.source.identity(), "other": self.other.identity(), "share": self.share}

    def video(self, index: int) -> np.ndarray:
        return self._of(index).video(index)

    def caption(self, index: int, rng: np.random.RandomState) -> str:
        return self._of(index).caption(index, rng)

    def _of(self, index: int) -> Source:
        return self.other if np.random.default_rng((index, 1)).random() < self.share else self.source


def _read(path: Path) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of a video, or of a picture with T = 1."""
    if path.suffix.lower() in PICTURES:
        return np.asarray(read_picture(path))[None]
    return read_video(path)[0]


def _shrunk(video: np.ndarray) -> np.ndarray:
    height, width = video.shape[1:3]
    scale = MAX_SHORT_SIDE / min(height, width)
    if scale >= 1:
        return video
    size = round(width * scale), round(height * scale)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in video])


def _cut(frame: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The square box (left, top, side) of a frame, scaled to size x size."""
    left, top, side = box
    if side == size:
        left, top = round(left), round(top)
        return frame[top : top + size, left : left + size]
    picture = Image.fromarray(frame)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)))
