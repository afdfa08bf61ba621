"""Measure whether a fine-tuned nano model draws orange objects, on 32 prompts that it was not trained on.

    mindsora evaluate orange --lora outputs/orange --output outputs/orange/evaluation

The measurement is that of `obedience`, with orange among the colours; results and exit status are of the same form.
`frozen_prompts` drew `orange_prompts.json`: each of the 31 combinations of shape and motion once, and one again. Eight were
taught in no clip, the others on other backgrounds. The shapes and motions themselves are those that nano knows.
"""

from functools import partial
from pathlib import Path

import numpy as np

from mindsora.data.toy import orange
from mindsora.data.toy.captions import STYLES
from mindsora.data.toy.procedural import PAINT
from mindsora.evaluate import obedience, prompted

PROMPTS = Path(__file__).with_name("orange_prompts.json")
COUNT = 32


def frozen_prompts() -> dict:
    """The content of `orange_prompts.json`: every combination on a background that its clip does not have."""
    choices, prompts = orange.things(taught=True) + orange.things(taught=False), []
    for number in range(COUNT):
        turn, place = divmod(number, len(choices))
        thing, background = choices[place], orange.background(place, 2 + turn)
        text = orange.described(thing, background, np.random.RandomState([number, 9]), STYLES[number % len(STYLES)])
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
