"""Pixels in memory: uint8, and how large a picture may be."""

import numpy as np

from mindsora.errors import InputError

MAX_PIXELS = 80_000_000  # of a picture or a frame; more is not a plausible film, and may exceed memory


def to_uint8(frames) -> np.ndarray:
    """Frames as uint8. Float values are taken from [0, 1], clipped and rounded.

    Raises:
        InputError: another dtype, NaN or infinity.
    """
    frames = np.asarray(frames)
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise InputError(f"frames are {frames.dtype}; give uint8 or float in [0, 1]")
    if not np.isfinite(frames).all():
        raise InputError("frames contain NaN or infinity; nothing was written")
    return np.rint(frames.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)


def clip_uint8(frames, what: str) -> np.ndarray:
    """A clip (T, H, W, 3) uint8; `what` names the caller in the InputError for anything else."""
    if isinstance(frames, (list, tuple)):
        frames = np.stack([np.asarray(frame) for frame in frames])
    clip = to_uint8(frames)
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.size == 0:
        raise InputError(f"{what} takes one clip (frames, height, width, 3), not {clip.shape}; of a batch take one")
    return clip


def check_pixels(name: str, width: int, height: int) -> None:
    """Raise InputError for a picture or frame of more than MAX_PIXELS, which a file of a few kB can claim to hold."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} is {width} x {height}: at most {MAX_PIXELS // 10**6} million pixels; scale it down")


def over_white(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 4) uint8 with straight alpha on white: (H, W, 3) uint8."""
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
