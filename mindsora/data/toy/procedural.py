"""Procedural captioned clips: coloured shapes that move, grow, shrink and turn on a neutral background.

Clip `index` of a split is a function of its number alone: no clip is stored, and the order of calls does not matter. All
lengths below are pixels of a 64 x 64 frame and scale with `size`; the soft edge stays 1.5 pixels at every size.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from mindsora.data.toy.captions import caption, pick
from mindsora.errors import InputError

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {  # neighbouring hues are at least 50 degrees apart
    "red": (225, 40, 40),
    "green": (40, 180, 50),
    "blue": (40, 60, 235),
    "yellow": (240, 215, 40),
    "purple": (175, 50, 205),
    "cyan": (30, 215, 225),
}
NEW_COLOURS = {"orange": (240, 130, 40)}  # in no clip that the nano models were trained on
PAINT = COLOURS | NEW_COLOURS
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # image axes: y points down
MOTIONS = (*DIRECTIONS, "still", "growing", "shrinking", "rotating")
BACKGROUNDS = {  # gray level at the top and at the bottom
    "black": (0, 0),
    "gray": (128, 128),
    "white": (255, 255),
    "gradient": (40, 200),
}
HALVES = {"left": (-16, 0), "right": (16, 0), "top": (0, -16), "bottom": (0, 16)}  # centres, from the frame's centre
SPLITS = ("train", "heldout")

FPS = 8
PAIR_SHARE = 0.15  # share of training clips with two objects
SOFT_EDGE = 1.5  # pixels over which coverage falls from 1 to 0


@dataclass(frozen=True)
class Thing:
    """One object of a clip."""

    shape: str
    colour: str
    motion: str

    def __post_init__(self):
        if self.shape not in SHAPES or self.colour not in PAINT or self.motion not in MOTIONS:
            raise InputError(f"unknown object {self}: shapes {SHAPES}, colours {tuple(PAINT)}, motions {MOTIONS}")
        if (self.shape, self.motion) == ("circle", "rotating"):
            raise InputError("a circle cannot rotate visibly: use a square, triangle or cross")


@dataclass(frozen=True)
class Clip:
    """The content of a clip; `places` names each object's half ("" for a single object in the whole frame)."""

    things: tuple[Thing, ...]
    background: str
    caption: str
    places: tuple[str, ...] = ("",)


# Held-out combinations: one motion for each (shape, colour), so each motion is held out three times, and every
# pair of attributes still occurs in training with at least two values of the third.
HELD_OUT = frozenset(
    Thing(shape, colour, MOTIONS[(2 * s + c) % len(MOTIONS)])
    for s, shape in enumerate(SHAPES)
    for c, colour in enumerate(COLOURS)
)


@cache
def combinations(split: str = "train", motion: str | None = None) -> tuple[Thing, ...]:
    """All objects that a split may draw, in a fixed order, or those with one motion."""
    return tuple(
        thing
        for m in MOTIONS
        if motion in (None, m)
        for shape in SHAPES
        if (shape, m) != ("circle", "rotating")
        for colour in COLOURS
        if ((thing := Thing(shape, colour, m)) in HELD_OUT) == (split == "heldout")
    )


def clip(index: int, split: str = "train", size: int = 64, frames: int = 17) -> tuple[np.ndarray, str, Clip]:
    """Clip number `index` of a split: video (T, H, W, 3) uint8, its caption and its content."""
    if split not in SPLITS or index < 0:
        raise InputError(f"clip {index} of {split!r}: the splits are {SPLITS}, numbered from 0")
    # RandomState, because NumPy guarantees its stream, so a clip never changes.
    rng = np.random.RandomState([index, SPLITS.index(split)])
    attributes = draw(rng, split)
    return (
        render(attributes.things, attributes.background, rng, size, frames, attributes.places),
        attributes.caption,
        attributes,
    )


def draw(rng: np.random.RandomState, split: str = "train") -> Clip:
    """Draw objects, background and caption. Held-out clips show one object each."""
    background = pick(rng, tuple(BACKGROUNDS))
    if split == "train" and rng.random_sample() < PAIR_SHARE:
        places = pick(rng, (("left", "right"), ("top", "bottom")))
        across = ("left", "right") if places[0] == "left" else ("up", "down")  # does not fit into half a frame
        motions = tuple(m for m in MOTIONS if m not in across)
        first, second = draw_thing(rng, split, motions), draw_thing(rng, split, motions)
        while second.colour == first.colour:
            second = draw_thing(rng, split, motions)
        things = (first, second)
    else:
        places, things = ("",), (draw_thing(rng, split, MOTIONS),)
    return Clip(things, background, caption(things, background, rng, places), places)


def draw_thing(rng: np.random.RandomState, split: str, motions: tuple[str, ...]) -> Thing:
    """Draw a motion uniformly, then an object that the split allows with that motion."""
    return pick(rng, combinations(split, pick(rng, motions)))


def render(
    things: tuple[Thing, ...],
    background: str,
    rng: np.random.RandomState,
    size: int = 64,
    frames: int = 17,
    places: tuple[str, ...] = ("",),
) -> np.ndarray:
    """Draw the objects, their tracks jittered by `rng`. Returns (T, H, W, 3) uint8."""
    if size < 16 or frames < 1:
        raise InputError(f"size {size}, frames {frames}: a clip needs a size of at least 16 and at least 1 frame")
    if background not in BACKGROUNDS:
        raise InputError(f"unknown background {background!r}: choose from {tuple(BACKGROUNDS)}")
    top, bottom = BACKGROUNDS[background]
    gray = np.linspace(top, bottom, size, dtype=np.float32)[:, None]  # (H, 1)
    covers = [
        coverage(thing.shape, *track(thing, place, rng, frames), size)  # (T, H, W) each
        for thing, place in zip(things, places, strict=True)
    ]
    video = np.empty((frames, size, size, 3), np.uint8)
    for channel in range(3):  # one plane at a time: broadcasting over a last axis of 3 is twice as slow
        plane = gray
        for thing, cover in zip(things, covers):
            plane = plane + cover * (np.float32(PAINT[thing.colour][channel]) - plane)
        video[..., channel] = plane + np.float32(0.5)  # rounds to nearest
    return video


def track(
    thing: Thing, place: str, rng: np.random.RandomState, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (T, 2) in pixels from the frame's centre, radius (T,) and angle (T,) in radians, over `frames` frames."""
    t = np.linspace(0, 1, frames)
    pair = bool(place)
    small, large = ((4.5, 5.5), (10, 11)) if pair else ((5, 6), (14, 15.5))
    radius = np.full(frames, rng.uniform(8, 10) if pair else rng.uniform(11, 13))
    if thing.motion in ("growing", "shrinking"):
        radius = rng.uniform(*small) + t * (rng.uniform(*large) - small[1])
        radius = radius if thing.motion == "growing" else radius[::-1]

    # Rotate clockwise by a quarter turn: half a turn per latent frame is more than a small autoencoder can encode.
    angle = np.radians(rng.uniform(80, 100)) * t if thing.motion == "rotating" else np.zeros(frames)

    if thing.motion in DIRECTIONS:
        # Constant speed through the middle: every group of latent frames (0 | 1-8 | 9-16) differs from `still`.
        along = np.asarray(DIRECTIONS[thing.motion], np.float64)
        across = np.asarray([along[1], along[0]])
        middle = along * rng.uniform(-2, 2) + across * rng.uniform(-2, 2)
        centre = middle + np.outer(t - 0.5, along * rng.uniform(26, 32))
    else:
        # A small jitter: captions do not give the place, and a model of this size spends its training on places. With
        # 8 pixels it drew bad outlines at every place instead of good ones at a few.
        centre = np.outer(np.ones(frames), rng.uniform(-2, 2, 2))
    if pair:
        centre = centre + HALVES[place]

    # Keep the whole object in view by shifting its track.
    reach = radius.max() * REACH[thing.shape]
    low, high = centre.min(0) - reach + 32, centre.max(0) + reach - 32
    return centre + np.maximum(-low, 0) - np.maximum(high, 0), radius, angle


# Sizes in units of the radius; areas are close to a disc's (pi), so that area does not reveal the shape.
SQUARE = 0.886  # half a side
TRIANGLE = 1.4  # distance of a corner from the centre
CROSS_ARM, CROSS_HALF = 1.25, 0.40
REACH = {"circle": 1.0, "square": SQUARE, "triangle": TRIANGLE, "cross": CROSS_ARM}


def coverage(shape: str, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int) -> np.ndarray:
    """Share of each pixel that the shape covers, (T, H, W) float32, from its signed distance."""
    scale = size / 64
    grid = np.arange(size, dtype=np.float32) + 0.5 - size / 2
    centre = (centre * scale).astype(np.float32)
    r = (radius * scale).astype(np.float32)[:, None, None]
    x = grid[None, None, :] - centre[:, 0, None, None]  # (T, 1, W)
    y = grid[None, :, None] - centre[:, 1, None, None]  # (T, H, 1)
    if angle.any():
        cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        x, y = cos * x + sin * y, cos * y - sin * x  # (T, H, W) each
    if shape == "circle":
        distance = np.sqrt(x * x + y * y) - r
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - SQUARE * r
    elif shape == "triangle":  # apex up; the inner radius is half the outer one
        distance = np.maximum(np.sqrt(np.float32(0.75)) * np.abs(x) - 0.5 * y, y) - 0.5 * TRIANGLE * r
    else:
        x, y = np.abs(x), np.abs(y)
        distance = np.minimum(
            np.maximum(x - CROSS_ARM * r, y - CROSS_HALF * r), np.maximum(x - CROSS_HALF * r, y - CROSS_ARM * r)
        )
    return np.clip(0.5 - distance / SOFT_EDGE, 0, 1)
