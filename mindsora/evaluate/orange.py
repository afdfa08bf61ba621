"""Measure whether a fine-tuned nano model draws orange objects, on 32 prompts of combinations that were not taught.

    mindsora evaluate orange --lora outputs/orange --output outputs/orange/evaluation

The measurement is that of `obedience`, with orange among the colours; results and exit status are of the same form.
`frozen_prompts` drew `orange_prompts.json`. The shapes and motions themselves are those that nano knows.
"""

from functools import partial
from pathlib import Path

import numpy as np

from mindsora.data.toy.captions import STYLES
from mindsora.data.toy.orange import described, things
from mindsora.data.toy.procedural import BACKGROUNDS, PAINT
from mindsora.evaluate import obedience, prompted

PROMPTS = Path(__file__).with_name("orange_prompts.json")
COUNT = 32


def frozen_prompts() -> dict:
    """The content of `orange_prompts.json`: the combinations that are not taught, styles and backgrounds in turn."""
    choices, prompts = things(taught=False), []
    for number in range(COUNT):
        turn, place = divmod(number, len(choices))
        thing, background = choices[place], tuple(BACKGROUNDS)[(number + turn) % len(BACKGROUNDS)]
        text = described(thing, background, np.random.RandomState([number, 9]), STYLES[(number + turn) % len(STYLES)])
        about = {"shape": thing.shape, "colour": thing.colour, "motion": thing.motion}
        prompts.append({"prompt": text, "seed": 1000 + number} | about)
    return {"thresholds": {name: 0.9 for name in obedience.ATTRIBUTES}, "prompts": prompts}


EVALUATION = prompted.Evaluation(
    __doc__.splitlines()[0],
    "nano",
    PROMPTS,
    "TextToVideoPipeline",
    obedience.read_prompts,
    obedience.generate,
    partial(obedience.report, colours=PAINT, name="orange"),
)
