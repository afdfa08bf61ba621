"""Pictures from files, PIL images and arrays. Untrusted files are expected."""

import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from mindsora.errors import InputError, shown
from mindsora.media.pixels import check_pixels, over_white, to_uint8

# Pillow knows more kinds, but some start programs (PostScript starts Ghostscript) or read large files by surprise.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

Picture = str | os.PathLike | Image.Image | np.ndarray


def read_picture(picture: Picture) -> Image.Image:
    """A picture as 8-bit RGB, upright as its camera says, transparent pixels white.

    Args:
        picture: a file of one of FORMATS, a PIL image, or an array (H, W, 3), uint8 or float in [0, 1].

    Raises:
        InputError: no such file, not a picture, cut off, of a mode that is not RGB, of more than 8 bits a channel, or of
            more pixels than `mindsora.media.MAX_PIXELS`.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[-1] != 3 or picture.size == 0:
            raise InputError(f"a picture is (height, width, 3), not {picture.shape}")
        return Image.fromarray(to_uint8(in_unit_range(picture)))
    if not isinstance(picture, (str, os.PathLike, Image.Image)):
        raise InputError(f"a picture is a file, a PIL image or an array, not {type(picture).__name__}")
    name = "the picture" if isinstance(picture, Image.Image) else f"picture {shown(os.fspath(picture))}"
    if not isinstance(picture, Image.Image) and not os.path.isfile(picture):
        raise InputError(f"{name} does not exist (or is not a file)")
    try:
        if isinstance(picture, Image.Image):
            return _rgb(picture, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_pixels reports it itself
            with Image.open(picture, formats=FORMATS) as image:
                return _rgb(image, name)
    except InputError:
        raise
    # What Pillow's parsers raise for damaged files has no common base class.
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"none of {', '.join(FORMATS)}" if unknown else shown(error, quote=False)
        raise InputError(f"cannot read {name}: {reason}; give a PNG or JPEG (a video goes in as a video)") from error


def is_still(path: str | os.PathLike) -> bool:
    """Whether a file is a picture of one frame, by its content. Of a GIF, which FFmpeg reads, it says no."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_pixels reports it itself
            with Image.open(path, formats=[name for name in FORMATS if name != "GIF"]) as image:
                return getattr(image, "n_frames", 1) == 1
    except Exception:  # what Pillow's parsers raise has no common base class
        return False


def in_unit_range(pixels: np.ndarray) -> np.ndarray:
    """The pixels; InputError for float values that are meant for 0 to 255 and would all become white."""
    if np.issubdtype(pixels.dtype, np.floating) and pixels.size and np.nanmax(pixels) > 2:
        raise InputError(f"float pixels reach {np.nanmax(pixels):g}: they must be in [0, 1]; divide by 255")
    return pixels


def _rgb(image: Image.Image, name: str) -> Image.Image:
    check_pixels(name, *image.size)
    # Pillow silently opens 16-bit RGB as 8-bit RGB; the tile still records what the file holds.
    sixteen_bits = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode.startswith(("I", "F")) or sixteen_bits:
        bits = "16 bits" if sixteen_bits else f"mode {image.mode}"
        raise InputError(f"{name} has more than 8 bits a channel ({bits}); save it as 8-bit RGB")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        return Image.fromarray(over_white(np.asarray(image.convert("RGBA"))))
    return image.convert("RGB")
