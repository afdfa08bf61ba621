"""Videos and pictures to disk. Clips are (T, H, W, 3), uint8 or float in [0, 1]."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from mindsora.errors import InputError, shown
from mindsora.files import whole_file
from mindsora.media.pixels import clip_uint8, to_uint8


def check_output(path: str | os.PathLike, suffixes: Sequence[str]) -> Path:
    """The output path, its folder made. Call it before the work whose result goes there.

    Raises:
        InputError: a suffix other than those given, a folder in the file's place, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"output {str(path)!r} must end in {' or '.join(suffixes)}: {path.with_suffix(suffixes[0])}")
    if os.path.isdir(path):
        raise InputError(f"output {str(path)!r} is a folder; name a file in it: {path / ('video' + suffixes[0])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot make the folder of output {shown(path)}: {reason}") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write output {str(path)!r}: no permission in {str(path.parent)!r}")
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that no file can have: too long, or with a null byte
        raise InputError(f"cannot write output {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    return path


def export_to_video(video_frames, output_video_path: str | os.PathLike, fps: float = 8) -> str:
    """Write one clip as H.264 (yuv420p, BT.709) in mp4, or as GIF.

    Args:
        video_frames: (T, H, W, 3) uint8 or float in [0, 1], or a list of such frames or of PIL images; or an iterator over
            chunks (n, H, W, 3) of the clip, in order, which are then never held together. An odd height or width gets
            one more row or column in mp4, a copy of the last, because yuv420p halves the colour planes.
        output_video_path: file ending in .mp4, or in .gif for `export_to_gif`; its folder is made.
        fps: frames per second.

    Returns:
        The path written. The same frames give the same bytes with the same PyAV version, in chunks or not.

    Raises:
        InputError: frames of another shape or dtype, fps not above 0, or a path that cannot be written.
    """
    if not 0 < fps <= 1000:
        raise InputError(f"fps is {fps}; it must be above 0 and at most 1000, for example 8")
    path = check_output(output_video_path, [".mp4", ".gif"])
    if path.suffix.lower() == ".gif":
        return export_to_gif(video_frames, path, fps)
    chunks = _chunks(video_frames, "export_to_video")
    with whole_file(path) as temporary:
        # bitexact: no library versions or times in the file; faststart: the index comes first, for playing in a page
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            stream = None
            for chunk in chunks:
                height, width = chunk.shape[1:3]
                chunk = np.pad(chunk, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                stream = stream or _h264_stream(container, chunk.shape[1:3], fps)
                if chunk.shape[1:3] != (stream.height, stream.width):
                    raise InputError(f"a chunk is {height} x {width}, the first was {stream.height} x {stream.width}")
                for image in chunk:
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                    container.mux(stream.encode(frame))
            if stream is None:
                raise InputError("export_to_video got no chunk; give at least one frame")
            container.mux(stream.encode())
    return str(path)


def export_to_gif(image, output_gif_path: str | os.PathLike, fps: float = 8) -> str:
    """Write one clip as a GIF that repeats, 256 colours a frame.

    Args:
        image: the frames, as of `export_to_video`.
        output_gif_path: file ending in .gif; its folder is made.
        fps: frames per second, at most 50; a GIF counts time in hundredths of a second, so 8 becomes 8.33.

    Returns:
        The path written.

    Raises:
        InputError: as export_to_video, and above 50 fps, which players show at 10.
    """
    if not 0 < fps <= 50:
        raise InputError(f"fps is {fps}; a GIF's must be above 0 and at most 50, for example 8")
    path = check_output(output_gif_path, [".gif"])
    first, *rest = (Image.fromarray(frame) for chunk in _chunks(image, "export_to_gif") for frame in chunk)
    with whole_file(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=int(100 / fps) * 10, loop=0)
    return str(path)


def _chunks(frames, function: str) -> Iterator[np.ndarray]:
    """The chunks (n, H, W, 3) uint8 of a clip, in order."""
    for chunk in frames if isinstance(frames, Iterator) else [frames]:
        yield clip_uint8(chunk, function)


def _h264_stream(container, size: tuple[int, int], fps: float):
    """A stream whose bytes depend on the frames alone."""
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    # mbtree: x264's AVX-512 code for it reads memory it did not write, so that equal frames gave unequal bytes.
    stream.options = {"crf": "18", "preset": "medium", "mbtree": "0"}
    # Players show untagged files with BT.601 or BT.709 depending on size: choose one and tag it.
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = 1  # ITU-R BT.709
    context.color_range = 1  # limited, 16..235
    context.thread_count = 1  # the bytes do not depend on the number of cores
    return stream


def write_clip(chunks: Iterable, path: str | os.PathLike, fps: float) -> str:
    """Write a clip that comes in chunks (n, H, W, 3): the only frame as .png, or all as .mp4. Returns the path."""
    if Path(path).suffix.lower() == ".png":
        (picture,) = np.concatenate(list(chunks))
        return save_image(picture, path)
    return export_to_video(iter(chunks), path, fps)


def save_image(image, path: str | os.PathLike) -> str:
    """Write one picture (H, W, 3), uint8 or float in [0, 1], as PNG. Returns the path; errors as in export_to_video."""
    image = to_uint8(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        raise InputError(f"save_image takes one picture (height, width, 3), not {image.shape}")
    path = check_output(path, [".png"])
    with whole_file(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
    return str(path)
