"""Contact sheets: a few frames of many clips in one picture, or all of them moving."""

import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mindsora.errors import InputError
from mindsora.files import whole_file
from mindsora.media.pixels import clip_uint8
from mindsora.media.writing import check_output

SHEET_FRAMES = 4  # frames of each clip on a contact sheet
SHEETS = (".png", ".webp")  # still, moving


def spread(frames: int, count: int = SHEET_FRAMES) -> list[int]:
    """Numbers of at most `count` of a clip's frames, evenly spread, the first and the last among them."""
    return np.rint(np.linspace(0, frames - 1, min(count, frames))).astype(int).tolist()


def picked(chunks: Iterable[np.ndarray], numbers: Sequence[int], into: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the chunks of a clip unchanged, and keep copies of the frames with these numbers."""
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
        frames_per_clip: for a .png, the number of frames of each clip, evenly spread, the first and the last among them.
        fps: for a .webp, frames per second.

    Returns:
        The path written.

    Raises:
        InputError: no clip, another number of labels than clips, clips of different sizes, or an unwritable path.
    """
    clips = [clip_uint8(clip, "contact_sheet") for clip in clips]
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
