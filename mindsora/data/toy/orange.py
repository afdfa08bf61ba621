"""Clips of a colour that the nano models never saw, orange, to fine-tune on and to measure with.

Of the 31 combinations of shape and motion 23 are taught. Prompts of all of them, in other words and on other backgrounds,
measure what was learnt of the colour.
"""

import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, MOTIONS, SHAPES, Thing, render

COLOUR = "orange"
CLIPS = 24
_HELD_OUT = {(SHAPES[(3 * m + m // 4) % 4], motion) for m, motion in enumerate(MOTIONS)}  # every shape twice


def things(taught: bool) -> tuple[Thing, ...]:
    """The orange objects that are taught, or the others: one shape for every motion."""
    pairs = ((shape, motion) for motion in MOTIONS for shape in SHAPES if (shape, motion) != ("circle", "rotating"))
    return tuple(Thing(shape, COLOUR, motion) for shape, motion in pairs if ((shape, motion) in _HELD_OUT) != taught)


def described(thing: Thing, background: str, rng: np.random.RandomState, style: str) -> str:
    """A caption with the article that the word takes."""
    return (
        caption((thing,), background, rng, style=style)
        .replace("a orange", "an orange")
        .replace("A orange", "An orange")
    )


def background(number: int, turn: int = 0) -> str:
    """The background of clip `number`, or, at another turn, one that it does not have."""
    return tuple(BACKGROUNDS)[(number + number // 4 + turn) % len(BACKGROUNDS)]


def clip(number: int) -> tuple[np.ndarray, str]:
    """Clip `number` of CLIPS: video (17, 64, 64, 3) uint8 and its captions, one of every style, one a line."""
    choices, rng = things(taught=True), np.random.RandomState([number, 7])
    thing = choices[number % len(choices)]
    captions = [described(thing, background(number), np.random.RandomState([number, 8]), style) for style in STYLES]
    return render((thing,), background(number), rng), "\n".join(captions)
