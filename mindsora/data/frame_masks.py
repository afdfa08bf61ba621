"""Frame masks: the tasks of Open-Sora Plan's inpainting models, with given pixels and pixels to generate.

Masks are 1 for pixels to generate and 0 for given pixels, as in upstream's code and in the training of the weights (the
report's figure and text have the opposite sign). NumPy only.
"""

import math
import random
from collections.abc import Mapping

import numpy as np

from mindsora.errors import InputError

TASKS = {
    "t2iv": "text only",
    "i2v": "the first frame is given",
    "transition": "the first and the last frame are given",
    "continuation": "the first n frames are given",
    "clear": "all frames are given",
    "random_temporal": "any n frames are given",
}
# The frames that an inpainting model sees differ between releases: see `GivenFrames.masked_video` and `compress`.
RELEASES = ("v1.2", "v1.3")
IMAGE_TASKS = ("t2iv", "clear")  # the tasks for a clip of one frame


def draw_task(weights: Mapping[str, float], num_frames: int, rng: random.Random) -> str:
    """Draw the task of one training sample.

    Args:
        weights: task -> weight; need not sum to 1. If all weights that apply are 0, the draw is uniform.
        num_frames: of the sample. For one frame, only IMAGE_TASKS apply, whether or not `weights` names them.
        rng: Python's generator, which upstream uses.

    Raises:
        InputError: an unknown task, or a weight that is negative or not finite.
    """
    check_tasks(weights)
    tasks = list(weights) if num_frames > 1 else list(IMAGE_TASKS)
    if not tasks:
        raise InputError(f"no task to draw from: give weights for some of {', '.join(TASKS)}")
    chances = [weights.get(task, 0) for task in tasks]
    return rng.choices(tasks, chances if any(chances) else None)[0]


def check_tasks(weights: Mapping[str, float]) -> None:
    """Raise InputError for an unknown task, or a weight that is negative or not finite."""
    for task, weight in weights.items():
        if task not in TASKS:
            raise InputError(f"unknown task {task!r}: must be one of {', '.join(TASKS)}")
        if not 0 <= weight < math.inf:
            raise InputError(f"weight of task {task!r} is {weight}: must be 0 or more")


def draw_given(
    task: str, num_frames: int, rng: random.Random, min_clear: float = 0.0, max_clear: float = 1.0
) -> tuple[int, ...]:
    """Draw the numbers of the given frames, ascending.

    Args:
        task: one of TASKS.
        rng: Python's generator; "continuation" and "random_temporal" draw from it.
        min_clear, max_clear: shares that bound the number of given frames of these two tasks, from
            floor(num_frames * min_clear) to ceil(num_frames * max_clear), both included.

    Raises:
        InputError: an unknown task, or shares that are not 0 <= min_clear <= max_clear <= 1.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: must be one of {', '.join(TASKS)}")
    if not 0 <= min_clear <= max_clear <= 1:
        raise InputError(f"min_clear, max_clear = {min_clear}, {max_clear}: must rise within 0 to 1")
    if task in ("continuation", "random_temporal"):
        count = rng.randint(math.floor(num_frames * min_clear), math.ceil(num_frames * max_clear))
        return tuple(range(count)) if task == "continuation" else tuple(sorted(rng.sample(range(num_frames), count)))
    return {
        "t2iv": (),
        "i2v": (0,),
        "transition": tuple(sorted({0, num_frames - 1})),
        "clear": tuple(range(num_frames)),
    }[task]


def name_task(given: tuple[int, ...], num_frames: int) -> str:
    """The task whose given frames have these ascending numbers."""
    if len(given) == num_frames:
        return "clear"
    if given == (0, num_frames - 1):
        return "transition"
    if given == tuple(range(len(given))):
        return ("t2iv", "i2v")[len(given)] if len(given) < 2 else "continuation"
    return "random_temporal"


def frame_mask(given: tuple[int, ...], num_frames: int) -> np.ndarray:
    """(T,) float32: 0 for given frames, 1 for the others."""
    mask = np.ones(num_frames, np.float32)
    mask[list(given)] = 0
    return mask


def hide(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked video: pixels in 0 to 255 where the mask is below 0.5, black elsewhere.

    It is black before scaling to [-1, 1], so hidden pixels become -1, not 0. mask: broadcasts against `pixels`.
    """
    return pixels * (mask < 0.5).astype(pixels.dtype)


def compress(mask: np.ndarray, stride: tuple[int, int, int], release: str = "v1.3") -> np.ndarray:
    """The mask at the latents' resolution, without the autoencoder.

    Height and width are interpolated bilinearly. Time keeps all values: the pixel frames of a latent frame become
    channels. The first latent frame has only one pixel frame, which all of its channels repeat.

    Args:
        mask: (B, 1, T, H, W).
        stride: pixels per latent along (time, height, width), the last two even.
        release: one of RELEASES. Of the pixel frames p = 0, 1, ... of a clip whose first frame is repeated, channel c of
            latent frame i is p = stride[0] * i + c in v1.3, and p = t * c + i in v1.2.

    Returns:
        (B, stride[0], t, H / stride[1], W / stride[2]) with t = (T - 1) / stride[0] + 1, or T / stride[0] for even T.

    Raises:
        InputError: T is neither 1 + k * stride[0] nor an even k * stride[0], or H, W are not multiples of the stride.
    """
    st, sh, sw = stride
    b, _, frames, height, width = mask.shape
    if (frames - frames % 2) % st:
        raise InputError(f"a mask of {frames} frames: must be 1 + {st}k, or {st}k where that is even")
    if height % sh or width % sw:
        raise InputError(f"a mask of {height} x {width} pixels: must be multiples of {sh} and {sw}")
    # A latent's centre lies between two pixels of a row and of a column, so bilinear is the mean of these four.
    mask = mask[:, 0].astype(np.float32)  # (B, T, H, W)
    mask = (mask[:, :, sh // 2 - 1 :: sh] + mask[:, :, sh // 2 :: sh]) / 2  # (B, T, h, W)
    mask = (mask[..., sw // 2 - 1 :: sw] + mask[..., sw // 2 :: sw]) / 2  # (B, T, h, w)
    if frames % 2:
        mask = np.concatenate([mask[:, :1]] * (st - 1) + [mask], 1)  # (B, st * t, h, w)
    if release == "v1.2":  # upstream's reshape takes the channels first, and the weights are used to it
        return mask.reshape(b, st, -1, *mask.shape[2:])
    return mask.reshape(b, -1, st, *mask.shape[2:]).swapaxes(1, 2)


# Noise on the given frames, so that the model does not rely on every detail of them.

NO_NOISE_SHARE = 0.05  # of the training samples


def training_noise_level(normal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Standard deviation of each sample's noise: log-normal around 0.05, or 0 for one sample in twenty.

    Args:
        normal, uniform: (B,) standard normal draws, and draws from [0, 1).
    """
    return np.where(uniform < NO_NOISE_SHARE, 0, np.exp(-3 + 0.5 * normal)).astype(np.float32)


def sampling_noise_level(strength: float, normal: np.ndarray | float) -> np.ndarray:
    """Standard deviation of each sample's noise: within a few percent of `strength`; 0 switches it off.

    Args:
        strength: 0 to 1, in units of pixels in [-1, 1].
        normal: (B,) standard normal draws.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"noise_strength = {strength}: must be 0 to 1; nearest legal: {int(strength > 1)}")
    if strength == 0:
        return np.zeros(np.shape(normal), np.float32)
    return np.exp(math.log(strength) + 0.01 * normal).astype(np.float32)


def noise_given(video: np.ndarray, mask: np.ndarray, level: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Add level * noise to the given pixels.

    Args:
        video: (B, 3, T, H, W) in [-1, 1].
        mask: (B, 1, T, H, W).
        level: (B,).
        noise: standard normal, shaped like `video`.
    """
    return video + np.where(mask < 0.5, level.reshape(-1, 1, 1, 1, 1) * noise, 0).astype(video.dtype)
