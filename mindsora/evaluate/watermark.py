"""Watermark avoidance: how many clips carry a mark that nobody asked for?

    mindsora evaluate watermark --model nano --output outputs/watermark
    mindsora evaluate watermark --videos clips --output outputs/watermark

Frames below 128 pixels are judged by strokes (`marks`), which need a plain scene in which something moves. Larger ones are
judged by the stock agencies' words in the clip's temporal median, read by `rapidocr` where it is installed. Both are
calibrated on synthetic marks (`benchmarks/marks.py`). A clip that cannot be judged has no value. The scores:

marked     share of the clips with a mark; at most 1 % is wanted
unjudged   share of the clips that cannot be judged: they stand still, have texture, or need the OCR that is missing
"""

from pathlib import Path

import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, combinations
from mindsora.evaluate import words
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.marks import marks
from mindsora.evaluate.measures import Clip, Judge, Measure
from mindsora.evaluate.shared import judged_once, measure_of

ITEMS = Path(__file__).with_name("watermark_items.json")
PROVENANCE = "Captions of single objects, drawn by mindsora.evaluate.watermark.frozen_items; none names a mark."
COUNT = 200
LEGIBLE = 128  # pixels of the shorter side from which OCR reads small letters
JUDGE = Judge("stable strokes")


def frozen_items() -> dict:
    """The content of `watermark_items.json`."""
    choices = combinations("train") + combinations("heldout")
    items = []
    for number in range(COUNT):
        thing, background = choices[37 * number % len(choices)], tuple(BACKGROUNDS)[number % len(BACKGROUNDS)]
        rng = np.random.RandomState([number, 26])
        text = caption((thing,), background, rng, style=STYLES[number % len(STYLES)])
        facts = {"thing": vars(thing), "background": background}
        items.append({"name": f"stock-{number:03d}", "prompts": [text], "seed": number, "facts": facts})
    return {"provenance": PROVENANCE, "items": items}


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """Whether a clip carries a mark, and whether that cannot be told."""
    mark = carries_mark(clip.frames)
    return {"marked": None if mark is None else float(mark), "unjudged": float(mark is None)}


def carries_mark(video: np.ndarray) -> bool | None:
    """Whether a clip (T, H, W, 3) uint8 carries a mark; None where that cannot be told."""
    if min(video.shape[1:3]) >= LEGIBLE:
        return bool(words.stock_words(video)) if words.installed() else None
    seen = marks(video)
    return bool(seen.boxes) if seen.evidence else None


def measures(judges) -> tuple[Measure, ...]:
    """With OCR where it is installed, and its version."""
    judge = words.judge(JUDGE) if words.installed() else JUDGE
    return (
        measure_of(judged, "marked", judge, higher_is_better=False),
        measure_of(judged, "unjudged", judge, higher_is_better=False),
    )


EVALUATION = Evaluation(
    "watermark",
    __doc__.splitlines()[0],
    ITEMS,
    measures,
    thresholds={"marked": 0.01},
    of_any_video=True,
)
