"""Clips with known faults, made from the real ones in packages: joins, subtitles, bars, stills, flicker, copies."""

from functools import cache

import cv2
import numpy as np
from clip_files import SAMPLES
from PIL import Image, ImageDraw, ImageFont

from mindsora.media import read_video

SIZE = (180, 320)  # height and width of most clips here
SHOTS = {
    "bikes": [(30, 76), (76, 137), (137, 187), (187, 242)],
    "bigbuckbunny": [(0, 132)],
    "carphone_pristine": [(0, 120)],
}
LINES = (
    "Where are you going tonight?",
    "I told you not to come back here.",
    "The train leaves at seven.",
    "Nobody knows what happened",
    "Ladies and gentlemen, welcome!",
    "Three years later",
    "He never wrote to me again...",
)


@cache
def shots() -> list[np.ndarray]:
    """Real shots without a cut inside, each (T, 180, 320, 3)."""
    films = {name: read_video(SAMPLES / f"{name}.mp4")[0] for name in SHOTS}
    return [covering(films[name][a:b], *SIZE) for name, spans in SHOTS.items() for a, b in spans]


def covering(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    """A clip scaled until it covers height x width, cut in the middle."""
    scale = max(height / clip.shape[1], width / clip.shape[2])
    size = round(clip.shape[2] * scale), round(clip.shape[1] * scale)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    scaled = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip]
    return np.stack([frame[top : top + height, left : left + width] for frame in scaled])


def shot(rng: np.random.Generator, frames: int) -> tuple[int, np.ndarray]:
    """Number of a random shot, and so many frames of it, perhaps mirrored and brighter or darker."""
    number = int(rng.integers(len(shots())))
    whole = shots()[number]
    first = int(rng.integers(max(1, len(whole) - frames + 1)))
    clip = whole[first : first + frames]
    clip = clip[:, :, ::-1] if rng.random() < 0.5 else clip
    return number, np.clip(clip * rng.uniform(0.8, 1.15), 0, 255).astype(np.uint8)


def joined(rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Two to five different shots in a row, and the first frame of each but the first."""
    clips, before = [], None
    while len(clips) < 2 or (len(clips) < 5 and rng.random() < 0.7):
        number, clip = shot(rng, int(rng.integers(16, 50)))
        if number != before:
            clips.append(clip)
            before = number
    return np.concatenate(clips), np.cumsum([len(clip) for clip in clips])[:-1].tolist()


def subtitled(rng: np.random.Generator, clip: np.ndarray) -> tuple[np.ndarray, int]:
    """A white or yellow line with a dark outline in the lowest fifth of every frame, and its first row of pixels."""
    height, width = clip.shape[1:3]
    size = int(rng.integers(round(0.055 * height), round(0.085 * height)))
    text, font = LINES[rng.integers(len(LINES))], ImageFont.load_default(size=size)
    colour = ((255, 255, 255), (255, 235, 60))[rng.integers(2)]
    left, top, right, bottom = font.getbbox(text, stroke_width=2)
    x = (width - (right - left)) // 2
    y = int(rng.integers(round(0.83 * height), height - (bottom - top) - 4))
    frames = []
    for frame in clip:
        picture = Image.fromarray(frame)
        draw = ImageDraw.Draw(picture)
        draw.text((x - left, y - top), text, colour, font, stroke_width=2, stroke_fill=(15, 15, 15))
        frames.append(np.asarray(picture))
    return np.stack(frames), y


def frozen(rng: np.random.Generator, clip: np.ndarray) -> np.ndarray:
    """The clip stops after a third or earlier."""
    stop = int(rng.integers(1, len(clip) // 3))
    return np.concatenate([clip[:stop], np.repeat(clip[stop : stop + 1], len(clip) - stop, 0)])


def still(rng: np.random.Generator, clip: np.ndarray) -> np.ndarray:
    """One frame with a little grain."""
    noise = rng.normal(0, rng.uniform(0, 2), clip.shape)
    return np.clip(clip[:1] + noise, 0, 255).astype(np.uint8)


def flickering(rng: np.random.Generator, clip: np.ndarray) -> np.ndarray:
    """Every frame has a brightness of its own."""
    light = 1 - rng.uniform(0.3, 0.6) * rng.random(len(clip))
    return (clip * light[:, None, None, None]).astype(np.uint8)


def shaken(rng: np.random.Generator, clip: np.ndarray) -> np.ndarray:
    """Every frame lies somewhere else, by up to a twentieth of the width."""
    most = rng.uniform(0.03, 0.08) * clip.shape[2]
    return np.stack([np.roll(frame, tuple(rng.uniform(-most, most, 2).astype(int)), (0, 1)) for frame in clip])


def blackened(rng: np.random.Generator, clip: np.ndarray) -> np.ndarray:
    """A fifth or more of the frames are black."""
    dark = clip.copy()
    dark[: int(rng.uniform(0.2, 0.5) * len(clip))] = rng.integers(0, 17)
    return dark


def barred(rng: np.random.Generator, clip: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Black bars above and below; returns the rows between them too."""
    height = clip.shape[1]
    bar = int(rng.uniform(0.06, 0.2) * height)
    out = np.full_like(clip, rng.integers(0, 17))
    out[:, bar : height - bar] = covering(clip, height - 2 * bar, clip.shape[2])
    return out, (bar, height - bar)


def rescaled(clip: np.ndarray, factor: float) -> np.ndarray:
    size = round(clip.shape[2] * factor), round(clip.shape[1] * factor)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip])


def cropped(clip: np.ndarray, share: float) -> np.ndarray:
    """The clip without `share` of its height and width, half on each side."""
    y, x = round(clip.shape[1] * share / 2), round(clip.shape[2] * share / 2)
    return clip[:, y : clip.shape[1] - y, x : clip.shape[2] - x]


def compressed(clip: np.ndarray, quality: int) -> np.ndarray:
    """Every frame as a JPEG and back."""
    coded = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for frame in clip]
    return np.stack([cv2.imdecode(one, cv2.IMREAD_COLOR) for one in coded])
