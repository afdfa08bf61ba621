"""The inpainting model's task: the frames that are given, and their times. (No MindSpore here.)

No frame: text-to-video. The first: image-to-video. The first and the last: a transition. The leading frames: a
continuation. Pictures and videos of other sizes are fitted: "cover" scales them until they cover the clip and cuts off
the rest on both sides alike; "pad" scales them until they fit and puts black bars around them. Both interpolate
bilinearly with antialiasing. v1.3's training does too, but aligns the centres of the corner pixels (align_corners) where
this aligns the edges of the pictures.
"""

import math
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageOps

from mindsora.data.frame_masks import compress, frame_mask, hide, name_task, noise_given, sampling_noise_level
from mindsora.errors import InputError, shown
from mindsora.media import Picture, read_picture, to_uint8
from mindsora.media.pictures import in_unit_range
from mindsora.zoo import ModelIndex

FITS = ("cover", "pad")
MIN_SIDE = 16  # pixels of a picture; a smaller one shows nothing
MAX_STRETCH = 4  # aspect ratio of a picture to the clip's, and its inverse; at this limit cover keeps a quarter

TIME = r"-?\d+|\d+(?:\.\d+)?s"
A_TIME = "must be a frame number such as 12 or -1 (the last), or seconds such as 1.5s"

Time = int | str | None


@dataclass(frozen=True, eq=False)
class GivenFrames:
    """The given frames of one clip. Two are equal only if they are the same object.

    Attributes:
        size: of the clip: frames, height, width.
        times: numbers of the given frames, ascending.
        pixels: (len(times), H, W, 3) uint8.
    """

    size: tuple[int, int, int]
    times: tuple[int, ...]
    pixels: np.ndarray

    @property
    def task(self) -> str:
        """One of `mindsora.data.frame_masks.TASKS`."""
        return name_task(self.times, self.size[0])

    def masked_video(self, noise_strength: float = 0.0, seed: int = 0, release: str = "v1.3") -> np.ndarray:
        """The given frames in their places, elsewhere black (v1.3) or grey (v1.2): (1, 3, T, H, W) float32 in [-1, 1].

        Args:
            noise_strength: 0 to 1; standard deviation of noise on the given frames, 0 for none. A little noise, such as
                0.05, lets the model depart from them.
            seed: of that noise, which has its own stream, so the initial latents are the same with and without it.
            release: one of `mindsora.data.frame_masks.RELEASES`.
        """
        rng = np.random.RandomState([seed, 1])
        level = sampling_noise_level(noise_strength, rng.standard_normal(1))
        pixels = np.zeros((*self.size, 3), np.uint8)
        pixels[list(self.times)] = self.pixels
        video = (pixels / np.float32(127.5) - 1).transpose(3, 0, 1, 2)[None]  # (1, 3, T, H, W); hidden: exactly -1
        mask = frame_mask(self.times, self.size[0]).reshape(1, 1, -1, 1, 1)
        if release == "v1.2":
            video = hide(video, mask)  # after the values were brought to [-1, 1], so 0
        if noise_strength:
            video = noise_given(video, mask, level, rng.standard_normal(video.shape).astype(np.float32))
        return np.ascontiguousarray(video)

    def latent_mask(self, stride: tuple[int, int, int], release: str = "v1.3") -> np.ndarray:
        """(1, stride[0], t, h, w) float32, 0 for given frames and 1 for all others; see `compress`.

        Args:
            stride: pixels per latent (time, h, w).
            release: one of `mindsora.data.frame_masks.RELEASES`.
        """
        frames, height, width = self.size
        mask = np.broadcast_to(frame_mask(self.times, frames).reshape(1, 1, -1, 1, 1), (1, 1, frames, height, width))
        return compress(mask, stride, release)


def given_frames(
    size: tuple[int, int, int],
    fps: float,
    images: Sequence[tuple[Picture, Time]] = (),
    video: np.ndarray | Iterator[np.ndarray] | None = None,
    video_fps: float | None = None,
    keep: int | None = None,
    fit: str = "cover",
) -> GivenFrames:
    """The given frames of a call, fitted to its clip.

    Args:
        size: of the clip: frames, height, width.
        fps: of the clip, in which times in seconds and `video_fps` are counted.
        images: pictures and their times. A time is a frame number (negative ones count from the end), a text such as
            "12", "-1" or "1.5s", or None: then the picture takes the first frame, or if that is taken, the last.
            A picture is a file, a PIL image, or an array (H, W, 3), uint8 or float in [0, 1].
        video: frames (T, H, W, 3) that the clip goes on from: the last `keep` of them become its first. (Upstream keeps
            the first half of the video and generates the second half again.) Or an iterator over frames (H, W, 3), each
            fitted at once; memory holds only the frames that can still be needed.
        video_fps: of `video`, if other than `fps`: frames are then dropped or repeated.
        keep: frames of `video` that are kept; None is half of the clip, or all frames of a shorter video.
        fit: "cover" or "pad".

    Raises:
        InputError: an entry that is no pair of picture and time; pictures and a video together; a time out of range,
            taken twice or missing; an unreadable or extreme picture; more frames to keep than the video has; no frame
            left to generate.
    """
    if fit not in FITS:
        raise InputError(f"fit = {fit!r}: must be {' or '.join(FITS)}")
    _check_pairs(images)
    if video is not None:
        if images:
            raise InputError("pictures and a video were given: give either, or cut the pictures out of the video")
        return _leading(size, fps, video, video_fps, keep, fit)
    if keep is not None:
        raise InputError("keep says how many frames of a video are kept; no video was given")
    if len(images) >= size[0]:
        nearest = f"nearest legal: {size[0] - 1}" if size[0] > 1 else "ask for more frames"
        raise InputError(
            f"given pictures: {len(images)}, frames of the clip: {size[0]}, of which one at least is to be "
            f"made; {nearest}"
        )
    times = _times([time for _, time in images], size[0], fps)
    frames = [fit_picture(read_picture(picture), *size[1:], fit) for picture, _ in images]
    order = np.argsort(times)
    pixels = np.stack([frames[i] for i in order]) if frames else np.zeros((0, *size[1:], 3), np.uint8)
    return GivenFrames((size[0], size[1], size[2]), tuple(sorted(times)), pixels)


def from_image(
    index: ModelIndex, size: str, images: Sequence[tuple[Picture, Time]], options: Mapping = MappingProxyType({})
) -> dict[str, int]:
    """The `height` and `width` that a clip takes from the first of its pictures, in the way of the model's release.

    Args:
        size: "from-image".
        options: of the request.

    Raises:
        InputError: another `size`, a height or width beside it, no picture, one that cannot be read or is too small.
    """
    if size != "from-image":
        raise InputError(f"size = {shown(size)}: must be 'from-image'; height and width give a size in pixels")
    if asked := [name for name in ("height", "width") if options.get(name) is not None]:
        raise InputError(f"size = 'from-image' and {asked[0]} = {options[asked[0]]}: give one of them")
    _check_pairs(images)
    if not images:
        raise InputError("size = 'from-image': no picture is given; give one, or height and width")
    picture = read_picture(images[0][0])
    height, width = index.size_from(picture.height, picture.width)
    return {"height": height, "width": width}


def _check_pairs(images: Sequence[tuple[Picture, Time]]) -> None:
    """Raise InputError for anything but a list of (picture, time)."""
    if isinstance(images, (list, tuple)):
        wrong = [image for image in images if not (isinstance(image, (list, tuple)) and len(image) == 2)]
    else:
        wrong = [images]
    if wrong:
        what = repr(wrong[0]) if isinstance(wrong[0], str) else type(wrong[0]).__name__
        raise InputError(
            f"images: {what} is no pair of picture and time; give a list of (picture, time), such as "
            "[('cat.png', 0)]; with None for times the first picture is the first frame, another the last"
        )


def parse_image(text: str) -> tuple[str, str | None]:
    """FILE[@TIME] to file and time. TIME is a frame number (-1 is the last frame) or seconds such as 1.5s.

    An @ in the name of a file that exists belongs to the name.

    Raises:
        InputError: something else than a time follows the name of a file that exists.
    """
    file, _, time = text.rpartition("@")
    if not file or os.path.exists(text):
        return text, None
    if re.fullmatch(TIME, time):
        return file, time
    if os.path.exists(file):
        raise InputError(f"time {time!r} of {file!r}: {A_TIME}")
    return text, None


def frame_number(time: int | str, num_frames: int, fps: float) -> int:
    """The frame at a time. time: a frame number, negative from the end, or "1.5s"; see `given_frames`.

    Raises:
        InputError: out of range, or not a time.
    """
    text = time if isinstance(time, str) and re.fullmatch(TIME, time) else ""
    if text.endswith("s"):
        number = int(float(text[:-1]) * fps + 0.5)
        if number >= num_frames:
            last = (num_frames - 1) / fps
            raise InputError(
                f"time {time}: the clip of {num_frames} frames at {fps:g} fps has times from 0s to {last:.3f}s; "
                f"nearest legal: {int(last * 1000) / 1000:g}s"
            )
        return number
    if text:
        time = int(text)
    if isinstance(time, bool) or not isinstance(time, (int, np.integer)):
        raise InputError(f"time {time!r}: {A_TIME}")
    if not -num_frames <= time < num_frames:
        raise InputError(
            f"time {time}: the clip has frames 0 to {num_frames - 1} (from the end, -1 to {-num_frames}); "
            f"nearest legal: {num_frames - 1 if time > 0 else -num_frames}"
        )
    return int(time) % num_frames


def _times(times: Sequence[Time], num_frames: int, fps: float) -> list[int]:
    """Frame numbers. Pictures without a time take the first frame, then the last, if they are free."""
    numbers: list = [None if time is None else frame_number(time, num_frames, fps) for time in times]
    free = [end for end in dict.fromkeys((0, num_frames - 1)) if end not in numbers]
    for i, number in enumerate(numbers):
        if number is None:
            if not free:
                raise InputError(
                    f"picture {i + 1} of {len(numbers)} has no time, and the first and last frame are taken: say which "
                    f"frame it is, 0 to {num_frames - 1}"
                )
            numbers[i] = free.pop(0)
    for i, number in enumerate(numbers):
        if number in numbers[:i]:
            raise InputError(f"frame {number} is given twice, by pictures {numbers.index(number) + 1} and {i + 1}")
    return numbers


def _leading(size, fps: float, video, video_fps: float | None, keep: int | None, fit: str) -> GivenFrames:
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, (int, np.integer))):
        finite = isinstance(keep, float) and math.isfinite(keep)
        nearest = f"; nearest legal: {min(max(round(keep), 1), size[0] - 1)}" if finite else ""
        raise InputError(f"keep = {keep!r}: must be a whole number of frames, from 1 to {size[0] - 1}{nearest}")
    interval = _interval(fps if video_fps is None else video_fps, fps)
    wanted = size[0] // 2 if keep is None else min(keep, size[0] - 1)
    # The fitted frames that can be needed, since the end decides which are, and the number of all frames.
    needed, count = int(max(wanted - 1, 0) * interval) + 1, 0
    last: deque[np.ndarray] = deque(maxlen=needed)
    if not isinstance(video, Iterator):
        video = to_uint8(in_unit_range(np.asarray(video)))
        if video.ndim != 4 or video.shape[-1] != 3 or video.size == 0:
            raise InputError(f"a video is (frames, height, width, 3), not {video.shape}")
        count = max(0, len(video) - needed)
        video = video[count:]
    for frame in video:
        count += 1
        last.append(fit_picture(read_picture(frame), size[1], size[2], fit))
    back = np.arange(0, count, interval).astype(int)  # how far before the last: the video at the clip's rate
    if keep is None:
        keep = min(len(back), size[0] // 2)
    most = min(len(back), size[0] - 1)
    if not 1 <= keep <= most:
        raise InputError(
            f"{keep} frames of the video to keep: it has {len(back)} at {fps:g} fps, the clip {size[0]}, of which "
            f"one at least is to be made; " + (f"nearest legal: {min(max(keep, 1), most)}" if most else "ask for more")
        )
    return GivenFrames(tuple(size), tuple(range(keep)), np.stack([last[-1 - i] for i in back[:keep][::-1]]))


def _interval(fps: float, wanted: float) -> float:
    """How many frames a video moves on for each frame of a clip at the rate `wanted`."""
    if not (0 < fps <= 1000 and 0 < wanted <= 1000):
        raise InputError(f"frames per second of video and clip are {fps} and {wanted}: must be above 0, at most 1000")
    return fps / wanted if abs(fps - wanted) >= 0.1 else 1.0  # 24 and 23.976 are the same, as in training


def fit_picture(picture: Image.Image, height: int, width: int, fit: str = "cover") -> np.ndarray:
    """(height, width, 3) uint8, scaled as `fit` says; see the top of this file.

    Raises:
        InputError: a picture so small, or so much wider or higher than the clip, that little of it would be left.
    """
    if min(picture.size) < MIN_SIDE:
        raise InputError(
            f"a picture is {picture.width} x {picture.height} pixels; its sides must be at least {MIN_SIDE}"
        )
    stretch = picture.width * height / (picture.height * width)
    if not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
        side = "wide" if stretch > 1 else "high"
        if stretch > 1:
            nearest = int(picture.height * width / height * MAX_STRETCH), picture.height
        else:
            nearest = picture.width, int(picture.width * height / width * MAX_STRETCH)
        raise InputError(
            f"a picture is {picture.width} x {picture.height} pixels, for a clip of {width} x {height} more than "
            f"{MAX_STRETCH} times too {side}; crop it to {nearest[0]} x {nearest[1]} or less"
        )
    scale = ImageOps.fit if fit == "cover" else ImageOps.pad
    return np.asarray(scale(picture, (width, height), Image.Resampling.BILINEAR))
