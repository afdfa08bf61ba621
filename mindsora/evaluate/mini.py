"""The regression suite: 24 prompts, two seeds, and what must hold of every clip.

    mindsora evaluate mini --model nano --output outputs/mini

The prompts are those of the 24 combinations that nano's training left out. `make test-slow` runs the suite and
compares it with the receipt of `benchmarks/mini.py`. The scores:

alive      share of the clips that are no even colour: standard deviation above 0.01
moves      share of the clips whose prompt asks for motion that are not static
flicker    1 less the mean difference of neighbouring frames; at least 0.90 in every clip, so `steady` is the share of those
length     share of the clips whose file lasts as long as the frames that were asked for
shape, colour, motion   share of clips that show what the prompt says: the semantic probe
seconds, peak memory    of a clip, from its manifest
"""

import math
from pathlib import Path

import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, combinations
from mindsora.evaluate.edits import moves, steps
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.measure import measure
from mindsora.evaluate.measures import Clip, Judge, Measure
from mindsora.evaluate.running import cost_of
from mindsora.evaluate.shared import judged_once, measure_of, measures_of, obeys

ITEMS = Path(__file__).with_name("mini_items.json")
PROVENANCE = "Drawn by mindsora.evaluate.mini.frozen_items: every combination that nano's training left out, two seeds."
SEEDS = 2
LEAST_SPREAD, LEAST_FLICKER = 0.01, 0.90
PIXELS, EXACT, MANIFEST = Judge("pixels"), Judge("procedural objects"), Judge("the manifest")


def frozen_items() -> dict:
    """The content of `mini_items.json`."""
    items = []
    for number, thing in enumerate(combinations("heldout")):
        background, rng = tuple(BACKGROUNDS)[number % len(BACKGROUNDS)], np.random.RandomState([number, 27])
        text = caption((thing,), background, rng, style=STYLES[number % len(STYLES)])
        for seed in range(SEEDS):
            name, facts = f"mini-{number:02d}-{seed}", {"thing": vars(thing)}
            items.append({"name": name, "prompts": [text], "seed": seed, "facts": facts, "group": f"{number:02d}"})
    return {"provenance": PROVENANCE, "items": items}


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """The measures of a clip."""
    video, thing = clip.frames, clip.item.facts["thing"]
    flicker = float(1 - steps(video).mean() / 255)
    values = {
        "alive": float(video.std() / 255 > LEAST_SPREAD),
        "flicker": flicker,
        "steady": float(flicker >= LEAST_FLICKER),
    }
    if thing["motion"] != "still":
        values["moves"] = float(moves(video))
    return values | obeys(measure(video), thing) | _of_manifest(clip)


def _of_manifest(clip: Clip) -> dict[str, float]:
    if not clip.manifests:
        return {}
    shapes, cost = clip.manifests[0]["shapes"], cost_of(clip)
    lasts, asked = len(clip.frames) / clip.fps, shapes["frames"][0] / shapes["fps"]
    return {
        "length": float(abs(lasts - asked) < 0.5 / shapes["fps"]),
        "seconds": cost["seconds"],
        "peak memory": cost["peak_memory_bytes"] / 2**20,
    }


def measures(judges) -> tuple[Measure, ...]:
    """All measures of the suite."""
    return (
        *measures_of(judged, ("alive", "moves", "flicker", "steady"), PIXELS),
        measure_of(judged, "length", MANIFEST),
        *measures_of(judged, ("shape", "colour", "motion"), EXACT),
        measure_of(judged, "seconds", MANIFEST, (0.0, math.inf), higher_is_better=False),
        measure_of(judged, "peak memory", MANIFEST, (0.0, math.inf), higher_is_better=False),
    )


EVALUATION = Evaluation(
    "mini",
    __doc__.splitlines()[0],
    ITEMS,
    measures,
    thresholds={"alive": 1.0, "moves": 1.0, "steady": 1.0, "length": 1.0, "shape": 0.9, "colour": 0.9, "motion": 0.8},
)
