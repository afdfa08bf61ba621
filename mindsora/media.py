"""Videos and pictures on disk, and how close two clips are. Clips are (T, H, W, 3), uint8 or float in [0, 1]."""

import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity

from mindsora.errors import InputError
from mindsora.files import whole_file

MAX_PIXELS = 80_000_000  # of a picture or a frame; more is no film, and can be more than memory holds
SHEET_FRAMES = 4  # frames of each clip on a contact sheet
SHEETS = (".png", ".webp")  # still, moving


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


def _clip_uint8(frames, what: str) -> np.ndarray:
    if isinstance(frames, (list, tuple)):
        frames = np.stack([np.asarray(frame) for frame in frames])
    clip = to_uint8(frames)
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.size == 0:
        raise InputError(f"{what} takes one clip (frames, height, width, 3), not {clip.shape}; of a batch take one")
    return clip


def check_output(path: str | os.PathLike, suffixes: Sequence[str]) -> Path:
    """The output path, its folder made. Call it before the work whose result goes there.

    Raises:
        InputError: a suffix other than those given, a folder in the file's place, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"output {str(path)!r} must end in {' or '.join(suffixes)}: {path.with_suffix(suffixes[0])}")
    if path.is_dir():
        raise InputError(f"output {str(path)!r} is a folder; name a file in it: {path / ('video' + suffixes[0])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder of output {str(path)!r}: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write output {str(path)!r}: no permission in {str(path.parent)!r}")
    return path


def export_to_video(frames, path: str | os.PathLike, fps: float = 8) -> str:
    """Write one clip as H.264 (yuv420p, BT.709) in mp4.

    Args:
        frames: (T, H, W, 3) uint8 or float in [0, 1], or a list of such frames; or an iterator over chunks (n, H, W, 3)
            of the clip, one after the other, which are then never held together. An odd height or width gets one more
            row or column, a copy of the last, because yuv420p halves the colour planes.
        path: file ending in .mp4; its folder is made.
        fps: frames per second.

    Returns:
        The path written. The same frames give the same bytes with the same PyAV version, in chunks or not.

    Raises:
        InputError: frames of another shape or dtype, fps not above 0, or a path that cannot be written.
    """
    if not 0 < fps <= 1000:
        raise InputError(f"fps is {fps}; it must be above 0 and at most 1000, for example 8")
    path = check_output(path, [".mp4"])
    chunks = (_clip_uint8(chunk, "export_to_video") for chunk in (frames if isinstance(frames, Iterator) else [frames]))
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


def _h264_stream(container, size: tuple[int, int], fps: float):
    """A stream whose bytes depend on the frames alone."""
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    # mbtree: x264's AVX-512 code for it reads memory it did not write, so that equal frames gave unequal bytes.
    stream.options = {"crf": "18", "preset": "medium", "mbtree": "0"}
    # Untagged files are shown with BT.601 or BT.709 by size and player: choose one and say it.
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


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[np.ndarray, float]:
    """Read a video file of any kind FFmpeg's libraries know (a still picture is a video of one frame).

    Args:
        path: the file.
        max_frames: stop after this many frames; None reads all.

    Returns:
        Frames (T, H, W, 3) uint8, and frames per second (the average where the file varies).

    Raises:
        InputError: no such file, not a video, frames of more than MAX_PIXELS, or none that can be decoded.
    """
    frames, fps = stream_video(path)
    return np.stack(list(islice(frames, max_frames))), fps


def stream_video(path: str | os.PathLike) -> tuple[Iterator[np.ndarray], float]:
    """As `read_video`, but for the frames one after the other, (H, W, 3): memory does not grow with their number.

    What is wrong with the file's frames is an InputError when they are asked for.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"video {str(path)!r} does not exist (or is not a file)")
    decoded = _decoded(path)
    fps = next(decoded)
    return decoded, fps


def _decoded(path: Path) -> Iterator:
    """Frames per second, then the frames."""
    count, name = 0, f"video {str(path)!r}"
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{str(path)!r} holds no video stream; give a video file")
            stream = container.streams.video[0]
            check_pixels(name, stream.width, stream.height)
            yield float(stream.average_rate or 25)  # stills carry no rate; 25 is FFmpeg's own choice for them
            for frame in container.decode(stream):
                check_pixels(name, frame.width, frame.height)  # which can change on the way
                count += 1
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {str(path)!r} as a video: {reason} (after {count} frames)") from error
    if not count:
        raise InputError(f"{str(path)!r} holds no frame that can be decoded; give a whole video file")


def check_pixels(name: str, width: int, height: int) -> None:
    """Raise InputError for a picture or frame of more than MAX_PIXELS, which a file of a few kB can claim to hold."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} is {width} x {height}: at most {MAX_PIXELS // 10**6} million pixels; scale it down")


def spread(frames: int, count: int = SHEET_FRAMES) -> list[int]:
    """Numbers of at most `count` of a clip's frames, evenly spread, the first and the last among them."""
    return np.rint(np.linspace(0, frames - 1, min(count, frames))).astype(int).tolist()


def picked(chunks: Iterable[np.ndarray], numbers: Sequence[int], into: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Let the chunks of a clip pass, and keep copies of the frames with these numbers."""
    start = 0
    for chunk in chunks:
        into += [chunk[number - start].copy() for number in numbers if start <= number < start + len(chunk)]
        start += len(chunk)
        yield chunk


def contact_sheet(
    clips: Sequence,
    labels: Sequence[str],
    path: str | os.PathLike,
    frames_per_clip: int = SHEET_FRAMES,
    fps: float = 8,
) -> str:
    """Write one picture of all clips, the label of each underneath.

    A .png shows a few frames of each clip in a row, first to last. A .webp shows every frame: the clips move.

    Args:
        clips: clips (T, H, W, 3), uint8 or float; all of one height and width.
        labels: one text a clip; wrapped to at most three lines.
        path: file ending in .png or .webp; its folder is made.
        frames_per_clip: of a .png, how many frames of each clip, evenly spread, the first and the last among them.
        fps: of a .webp, frames per second.

    Returns:
        The path written.

    Raises:
        InputError: no clip, another number of labels than clips, clips of different sizes, or an unwritable path.
    """
    clips = [_clip_uint8(clip, "contact_sheet") for clip in clips]
    if not clips or len(clips) != len(labels):
        raise InputError(f"contact_sheet got {len(clips)} clips and {len(labels)} labels; give one label a clip")
    if len({clip.shape[1:3] for clip in clips}) > 1:
        raise InputError(f"contact_sheet needs clips of one size, not {sorted({clip.shape[1:3] for clip in clips})}")
    path = check_output(path, SHEETS)
    longest = max(len(clip) for clip in clips)
    if path.suffix.lower() == ".webp":
        # A shorter clip shows its last frame until the longest ends.
        pages = [_sheet([clip[[min(t, len(clip) - 1)]] for clip in clips], labels, 1) for t in range(longest)]
        options = {
            "format": "WEBP",
            "save_all": True,
            "append_images": pages[1:],
            "duration": round(1000 / fps),
            "loop": 0,
        }
    else:
        count = min(frames_per_clip, longest)
        pages = [_sheet([clip[spread(len(clip), count)] for clip in clips], labels, count)]
        options = {"format": "PNG", "optimize": True}
    with whole_file(path) as temporary:
        pages[0].save(temporary, **options)
    return str(path)


def _sheet(rows: Sequence[np.ndarray], labels: Sequence[str], count: int) -> Image.Image:
    """One page: for each clip its frames (up to `count`, H, W, 3) side by side, and its label."""
    height, width = rows[0].shape[1:3]
    scale = max(1, -(-96 // height))  # small frames are enlarged to at least 96 pixels
    height, width = height * scale, width * scale
    gap, margin = 2, 12
    cell = max(count * (width + gap) - gap, 200)  # a label needs some room even under a single small frame
    columns = max(1, min(len(rows), round((len(rows) * (height + 60) / cell) ** 0.5)))  # about as wide as high
    lines = -(-len(rows) // columns)

    font = ImageFont.load_default(size=14)
    texts = [_wrap(label, font, cell) for label in labels]
    line = sum(font.getmetrics())
    below = line * max(text.count("\n") + 1 for text in texts) + 4
    size = margin + columns * (cell + margin), margin + lines * (height + below + margin)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (frames, text) in enumerate(zip(rows, texts)):
        left, top = margin + i % columns * (cell + margin), margin + i // columns * (height + below + margin)
        for k, pixels in enumerate(frames):
            frame = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(frame, (left + k * (width + gap), top))
        draw.multiline_text((left, top + height + 2), text, fill="black", font=font, spacing=0)
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int = 3) -> str:
    per_line = max(8, int(width / font.getlength("abcdefghijklmnopqrstuvwxyz ") * 27 * 0.95))
    return "\n".join(textwrap.wrap(text, per_line, max_lines=max_lines, placeholder=" ...")) or " "


def _frame_pairs(a, b):
    """Pairs of frames in float64, [0, 1]; one by one, because whole clips in float64 are large."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or a.size == 0:
        raise InputError(f"two clips (frames, height, width, 3) of one shape are compared, not {a.shape} and {b.shape}")
    return ([x / 255.0 if x.dtype == np.uint8 else x.astype(np.float64) for x in pair] for pair in zip(a, b))


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio of two clips in dB: per frame over RGB in [0, 1], then the mean over the frames.

    Equal frames count 100 dB (mean squared error below 1e-10), the convention of the WF-VAE evaluation.
    """
    errors = [((x - y) ** 2).mean() for x, y in _frame_pairs(a, b)]
    return float(np.mean([100.0 if error < 1e-10 else -10 * np.log10(error) for error in errors]))


def ssim(a, b) -> float:
    """Structural similarity of two clips in [-1, 1] (Wang et al. 2004), mean over frames and RGB.

    11 x 11 Gaussian window of sigma 1.5, valid region only, constants 0.01 and 0.03; height and width at least 11.
    """
    pairs = _frame_pairs(a, b)
    height, width = np.shape(a)[1:3]
    if min(height, width) < 11:
        raise InputError(f"SSIM's window is 11 x 11 pixels; the clips are {height} x {width}")
    settings = dict(data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return float(np.mean([structural_similarity(x, y, **settings) for x, y in pairs]))
