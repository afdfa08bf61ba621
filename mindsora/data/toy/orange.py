"""Clips of a colour that the nano models never saw, orange, to fine-tune on and to measure with.

Of the combinations of shape and motion one half is taught; prompts of the other half measure what was learnt of the colour.
"""

import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, MOTIONS, SHAPES, Thing, render

COLOUR = "orange"
CLIPS = 24
_PAIRS = [
    (s, m) for m in range(len(MOTIONS)) for s in range(len(SHAPES)) if (SHAPES[s], MOTIONS[m]) != ("circle", "rotating")
]


def things(taught: bool) -> tuple[Thing, ...]:
    """The orange objects that are taught, or the others; every shape and every motion is in both."""
    return tuple(Thing(SHAPES[s], COLOUR, MOTIONS[m]) for s, m in _PAIRS if ((s + m) % 2 == 0) == taught)


def described(thing: Thing, background: str, rng: np.random.RandomState, style: str) -> str:
    """A caption with the article that the word takes."""
    return (
        caption((thing,), background, rng, style=style)
        .replace("a orange", "an orange")
        .replace("A orange", "An orange")
    )


def clip(number: int) -> tuple[np.ndarray, str]:
    """Clip `number` of CLIPS: video (17, 64, 64, 3) uint8 and its caption."""
    choices, rng = things(taught=True), np.random.RandomState([number, 7])
    thing, turn = choices[number % len(choices)], number // len(choices)
    background = tuple(BACKGROUNDS)[(number + turn) % len(BACKGROUNDS)]
    return render((thing,), background, rng), described(thing, background, rng, STYLES[number % len(STYLES)])
