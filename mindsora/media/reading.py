"""Videos from disk, as a player shows them: upright, on white where they are transparent. Untrusted files are expected."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from mindsora.errors import InputError, shown
from mindsora.media.pictures import is_still, read_picture
from mindsora.media.pixels import check_pixels, over_white

# Demuxers that read one file and nothing beside it. FFmpeg's others follow playlists (hls, dash, concat), number
# patterns (image2) or the network, so that a file named clip.mp4 could make it read its neighbours.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,ogg,flv,asf,mxf,nut,dv,"
    "yuv4mpegpipe,gif,apng,webp,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
OPTIONS = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
# PyAV 18 frees the name of a colour profile twice, once with the frame and once with `frame.side_data`: the process dies.
# Only these decoders set that name.
PROFILED = ("png", "apng")
STILL_FPS = 25.0  # a still has no rate; this is FFmpeg's default
CUT_SHORT = (
    0.9  # share of the stated duration below which a file counts as cut off; sound may outlast the pictures a little
)
HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, float]:
    """Read a video file (a still picture is a video of one frame).

    Args:
        path: one local file of a kind in DEMUXERS.
        max_frames: stop after this many frames; None reads all.

    Returns:
        Frames (T, H, W, 3) uint8, upright as the file's display matrix says, transparent pixels white; and frames per
        second (the average where the file varies).

    Raises:
        InputError: no such file, not a video, frames of more than MAX_PIXELS or of different sizes, or none that can be
            decoded.
    """
    frames, fps = stream_video(path)
    return np.stack(list(islice(frames, max_frames))), fps


def stream_video(path: str | os.PathLike) -> tuple[Iterator[np.ndarray], float]:
    """Like `read_video`, but the frames (H, W, 3) come one by one: memory does not grow with their number.

    Errors in the file's frames raise InputError when the frames are requested.
    """
    path = Path(path)
    if not os.path.isfile(path):  # false also for names that no file can have
        raise InputError(f"video {shown(path)} does not exist (or is not a file)")
    if is_still(path):
        return iter([np.asarray(read_picture(path))]), STILL_FPS
    decoded = _decoded(path)
    fps = next(decoded)
    return decoded, fps


def read_frames(
    path: str | os.PathLike, numbers: Sequence[int], shrink: Callable[[np.ndarray], np.ndarray] | None = None
) -> list[np.ndarray]:
    """Some frames of a video, each (H, W, 3) uint8: those that `read_video` gives at these places.

    It decodes from the keyframe before the first of them. The others on the way are decoded, not converted to RGB.

    Args:
        numbers: ascending, from 0; some may repeat.
        shrink: applied to each frame before the next one is decoded, so that a long clip fits into memory.

    Raises:
        InputError: as `read_video`, or the file has fewer frames.
    """
    path, asked = Path(path), [int(number) for number in numbers]
    numbers = sorted(set(asked))
    if not os.path.isfile(path):  # false also for names that no file can have
        raise InputError(f"video {shown(path)} does not exist (or is not a file)")
    with _readable(path):
        frames = _opened(path, _sought, numbers, shrink) if numbers[0] else None
        if frames is None:  # the first frame is asked for, or the file has no reliable times
            frames = _opened(path, _counted, numbers, shrink)
    if len(frames) < len(numbers):
        raise InputError(f"video {shown(path)} ends before frame {numbers[-1]}, which is asked for")
    if len({frame.shape for frame in frames}) > 1:
        raise InputError(f"video {shown(path)} has frames of several sizes; re-encode it at one size")
    by_number = dict(zip(numbers, frames))
    return [by_number[number] for number in asked]


class VideoFacts(NamedTuple):
    """Size of the upright frames in pixels, number of frames that the file has, and average frames per second."""

    height: int
    width: int
    num_frames: int
    fps: float


def probe_video(path: str | os.PathLike) -> VideoFacts:
    """The facts of a video, of which only the first frame is decoded; the others are counted.

    Raises:
        InputError: as `read_video`, for the first frame.
    """
    path = Path(path)
    frames, fps = stream_video(path)
    height, width, _ = next(frames).shape
    frames.close()
    with _readable(path), av.open(str(path), options=dict(OPTIONS)) as container:
        packets = container.demux(_video_stream(container, f"video {shown(path)}"))
        return VideoFacts(height, width, sum(packet.size > 0 and not packet.is_discard for packet in packets), fps)


def _opened(path: Path, read: Callable, numbers: list[int], shrink: Callable | None):
    with av.open(str(path), options=dict(OPTIONS)) as container:
        return read(container, _video_stream(container, f"video {shown(path)}"), numbers, shrink)


def _counted(container, stream, numbers: list[int], shrink: Callable | None) -> list[np.ndarray]:
    """These frames, or those that the file has, decoded from its beginning."""
    wanted = set(numbers)
    frames = enumerate(islice(_frames(container, stream), numbers[-1] + 1))
    return [_checked(Path(container.name), stream, frame, shrink) for number, frame in frames if number in wanted]


_REORDERED = 32  # packets by which a frame may come later in the file than on the screen; H.264 and HEVC allow 16


def _sought(container, stream, numbers: list[int], shrink: Callable | None) -> list[np.ndarray] | None:
    """These frames by their times, decoded from the keyframe before; None where the times do not say which they are."""
    packets = []
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            packets.append((packet.pts, packet.dts, packet.is_keyframe))
        if len(packets) > numbers[-1] + _REORDERED:
            break
    if any(pts is None or dts is None for pts, dts, _ in packets) or len(packets) <= numbers[-1]:
        return None
    times = sorted(pts for pts, _, _ in packets)
    wanted = {times[number] for number in numbers}
    start = max(((pts, dts) for pts, dts, key in packets if key and pts <= min(wanted)), default=None)
    if start is None or len(wanted) < len(numbers):
        return None
    container.seek(start[1], stream=stream)
    frames = {}
    for frame in _frames(container, stream):
        if frame.pts in wanted:
            frames[frame.pts] = _checked(Path(container.name), stream, frame, shrink)
        if len(frames) == len(wanted) or (frame.pts or 0) > max(wanted):
            break
    return [frames[time] for time in sorted(frames)] if len(frames) == len(wanted) else None


def _checked(path: Path, stream, frame: av.VideoFrame, shrink: Callable | None) -> np.ndarray:
    check_pixels(f"video {shown(path)}", frame.width, frame.height)
    pixels = _upright(stream, frame)
    return pixels if shrink is None else shrink(pixels)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """InputError for whatever a damaged file makes FFmpeg's parsers and PyAV raise; they have no common base class."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {shown(path)} as a video: {shown(reason, quote=False)}") from error


def _decoded(path: Path) -> Iterator:
    """Frames per second, then the frames."""
    count, name, end, size = 0, f"video {shown(path)}", 0.0, None
    try:
        with av.open(str(path), options=dict(OPTIONS)) as container:
            stream = _video_stream(container, name)
            fps = float(stream.average_rate or 0)
            fps = fps if 0 < fps <= 1000 else STILL_FPS
            yield fps
            for frame in _frames(container, stream):
                check_pixels(name, frame.width, frame.height)  # which can change on the way
                pixels = _upright(stream, frame)
                if size not in (None, pixels.shape):
                    raise InputError(
                        f"{name}: frame {count} is {pixels.shape[1]} x {pixels.shape[0]}, the frames before are "
                        f"{size[1]} x {size[0]}; re-encode it at one size"
                    )
                if not count:
                    _warn_of_display(name, stream, frame)
                count, size, end = count + 1, pixels.shape, max(end, (frame.time or 0.0) + 1 / fps)
                yield pixels
            _warn_if_cut_short(name, container, stream, end)
    except InputError:
        raise
    # What FFmpeg's parsers and PyAV's accessors raise for damaged files has no common base class.
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot read {shown(path)} as a video: {shown(reason, quote=False)} (after {count} frames)"
        ) from error
    if not count:
        raise InputError(f"{shown(path)} holds no frame that can be decoded; give a whole video file")


def _video_stream(container, name: str):
    if not container.streams.video:
        raise InputError(f"{name} holds no video stream; give a video file")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise InputError(f"{name}: its codec is not known here; convert it to H.264 in mp4")
    check_pixels(name, stream.width, stream.height)
    return stream


def _frames(container, stream) -> Iterator[av.VideoFrame]:
    """The decoded frames. FFmpeg's own VP8 and VP9 decoders drop the alpha plane; libvpx keeps it."""
    library = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if library is None or stream.metadata.get("alpha_mode") != "1":
        yield from container.decode(stream)
        return
    decoder = av.CodecContext.create(library, "r")
    decoder.extradata = stream.codec_context.extradata
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


def _upright(stream, frame: av.VideoFrame) -> np.ndarray:
    """Pixels (H, W, 3) uint8, turned and mirrored as the display matrix says, on white."""
    if any(component.is_alpha for component in frame.format.components):
        pixels = over_white(frame.to_ndarray(format="rgba"))
    else:
        pixels = frame.to_ndarray(format="rgb24")
    if stream.codec_context.name in PROFILED:
        return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))  # says nothing of mirror images
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    # x' = a x + c y, y' = b x + d y, in a coordinate system whose y grows downwards
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)
    if abs(b) > abs(a):  # a quarter turn: x' follows y
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _warn_of_display(name: str, stream, frame: av.VideoFrame) -> None:
    """Warn about what a player would do and this reader does not."""
    if curve := HIGH_DYNAMIC_RANGE.get(int(frame.color_trc)):
        _warn(f"{name} is high dynamic range ({curve}); its colours are read without tone mapping and look flat")
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        _warn(f"{name} has pixels of shape {aspect.numerator}:{aspect.denominator}; they are read as squares")


def _warn_if_cut_short(name: str, container, stream, seconds: float) -> None:
    if stream.duration and stream.time_base:
        stated = float(stream.duration * stream.time_base)
    else:
        stated = (container.duration or 0) / av.time_base
    if seconds < stated * CUT_SHORT:
        _warn(f"{name} ends after {seconds:.2f} of its {stated:.2f} seconds; the file may be cut off")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)
