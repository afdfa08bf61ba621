"""Multi-shot continuity: is one object in one place the same in three shots, each with an action of its own?

    mindsora evaluate shots --model nano --output outputs/shots
    mindsora evaluate continued_shots --model nano_i2v --output outputs/continued_shots

`shots` makes every shot from its prompt alone; `continued_shots` gives each the last frame of the shot before. Scores:

identity     I = (s_in - s_out) / (s_real - s_out). s_in is the mean likeness of the object's crops in the middles of a
             sequence's shots, s_out that between sequences, s_real that of the procedural clips of the same sequences
checklist    share of shape, colour, background and count (one object) that are right, over the shots
action       share of the shots that show their own action
passes       share of the sequences with I >= 0.6, by the sequence's own s_real, and a checklist >= 0.8
place        likeness of the shots' backgrounds: 1 less the difference of their row means, in shares of white
seam ok      of continued shots: the first frame of a shot differs from the last of the shot before by no more than the
             95th percentile of the sequence's own steps. A proxy: pixels stand in for LPIPS

The likeness is a proxy (hues and outline of the crop); the checklist is exact on procedural clips.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations as pairs_of
from pathlib import Path

import cv2
import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, COLOURS, SHAPES, Thing, render
from mindsora.evaluate.edits import cropped, identity, likeness_vector, steps
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Clip, Judge, Measure, Row, Score
from mindsora.evaluate.objects import background_of, objects
from mindsora.evaluate.shared import judged_once, measure_of, measures_of

ITEMS = Path(__file__).with_name("shots_items.json")
PROVENANCE = (
    "Drawn by mindsora.evaluate.shots.frozen_items: sequences of one object and background; later actions need no place "
    "of their own, so that a shot can go on from the frame before. Combinations of training and held out."
)
COUNT, SHOTS = 20, 3
LEAST_IDENTITY, LEAST_CHECKLIST = 0.6, 0.8
EXACT, LIKENESS = Judge("procedural objects"), Judge("hues and outline of the object", kind="proxy")
PIXELS = Judge("difference of pixels", kind="proxy")


def frozen_items() -> dict:
    """The content of `shots_items.json`."""
    return {"provenance": PROVENANCE, "items": [_item(number) for number in range(COUNT)]}


def _item(number: int) -> dict:
    rng = np.random.RandomState([number, 24])
    shape, colour = SHAPES[number % len(SHAPES)], tuple(COLOURS)[(number + number // len(SHAPES)) % len(COLOURS)]
    later = ["still", "growing", "shrinking"] + (["rotating"] if shape != "circle" else [])
    motions = [("left", "right", "up", "down")[rng.randint(4)], *rng.permutation(later)[: SHOTS - 1]]
    background = tuple(BACKGROUNDS)[number % len(BACKGROUNDS)]
    style = STYLES[number % len(STYLES)]
    prompts = [caption((Thing(shape, colour, motion),), background, rng, style=style) for motion in motions]
    facts = {"shape": shape, "colour": colour, "motions": list(map(str, motions)), "background": background}
    return {"name": f"sequence-{number:02d}", "prompts": prompts, "seed": number, "facts": facts}


def truth(facts: dict, frames: int = 17, size: int = 64) -> list[np.ndarray]:
    """The procedural clips of a sequence."""
    return [
        render((Thing(facts["shape"], facts["colour"], motion),), facts["background"], _jitter(n), size, frames)
        for n, motion in enumerate(facts["motions"])
    ]


def _jitter(number: int) -> np.random.RandomState:
    return np.random.RandomState([number, 25])


def vectors(shots: Sequence[np.ndarray]) -> np.ndarray:
    """The likeness vector of the object in the middle of every shot: (shots, n); zeros where there is no object."""
    rows = []
    for shot in shots:
        seen, middle = objects(shot), len(shot) // 2
        rows.append(likeness_vector(cropped(shot[middle], seen[0].masks[middle])) if seen else None)
    empty = np.zeros_like(likeness_vector(np.zeros((32, 32, 3), np.uint8)))
    return np.stack([empty if row is None else row for row in rows])


def within(shots: np.ndarray) -> float:
    """Mean cosine between the shots of one sequence."""
    return float(np.mean([a @ b for a, b in pairs_of(shots, 2)]))


def between(sequences: Sequence[tuple[str, np.ndarray]]) -> float | None:
    """Mean cosine between shots of sequences of different names; None for one sequence."""
    means = np.stack([shots.mean(0) for _, shots in sequences])
    names = np.array([name for name, _ in sequences])
    strangers = names[:, None] != names[None, :]
    return float((means @ means.T)[strangers].mean()) if strangers.any() else None


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """The measures of a sequence, without the seam."""
    facts, right, acts = clip.item.facts, [], []
    for shot, motion in zip(clip.shots, facts["motions"], strict=True):
        seen = objects(shot)
        one = seen[0] if seen else None
        right += [len(seen) == 1, background_of(shot, seen) == facts["background"]]
        right += [one is not None and getattr(one, name) == facts[name] for name in ("shape", "colour")]
        acts.append(one is not None and one.motion == motion)
    real = truth(facts, *clip.shots[0].shape[:2])
    return {
        "likeness": within(vectors(clip.shots)),
        "ceiling": within(vectors(real)),
        "checklist": float(np.mean(right)),
        "action": float(np.mean(acts)),
        "place": _place(clip.shots),
    }


def _place(shots: Sequence[np.ndarray]) -> float:
    """1 less the largest mean difference of the shots' backgrounds, row by row, in shares of white."""
    rows = [np.median(shot.mean(-1), axis=(0, 2)) for shot in shots]
    return float(1 - max(np.abs(a - b).mean() for a, b in pairs_of(rows, 2)) / 255)


def seam_ok(clip: Clip) -> float:
    """Whether the shots join as smoothly as the frames inside them move."""
    usual = max(1.0, float(np.percentile(np.concatenate([steps(shot) for shot in clip.shots]), 95)))
    joins = [cv2.absdiff(a[-1], b[0]).mean() for a, b in zip(clip.shots[:-1], clip.shots[1:])]
    return float(max(joins) <= usual)


def _sequences(rows: Sequence[Row]) -> list[tuple[str, np.ndarray]]:
    return [(row.item.name, row.features["vectors"]) for row in rows]


def identity_of(rows: Sequence[Row]) -> float | None:
    """I over all sequences."""
    strangers = between(_sequences(rows))
    if strangers is None:
        return None
    return identity(_mean(rows, "likeness"), strangers, _mean(rows, "ceiling"))


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row.values[name] for row in rows]))


def passes(rows: Sequence[Row]) -> float | None:
    """Share of the sequences that pass."""
    strangers = between(_sequences(rows))
    if strangers is None:
        return None
    passed = [
        identity(row.values["likeness"], strangers, row.values["ceiling"]) >= LEAST_IDENTITY
        and row.values["checklist"] >= LEAST_CHECKLIST
        for row in rows
    ]
    return float(np.mean(passed))


def measures(judges) -> tuple[Measure, ...]:
    """The measures of shots that are made one by one."""
    return (
        measure_of(judged, "likeness", LIKENESS, (-1.0, 1.0)),
        measure_of(judged, "ceiling", LIKENESS, (-1.0, 1.0), higher_is_better=None),
        *measures_of(judged, ("checklist", "action"), EXACT),
        measure_of(judged, "place", PIXELS),
        Measure("vectors", LIKENESS, lambda clip: vectors(clip.shots), (-1.0, 1.0), None),
    )


EVALUATION = Evaluation(
    "shots",
    __doc__.splitlines()[0],
    ITEMS,
    measures,
    lambda measures: (Score("identity", LIKENESS, identity_of), Score("passes", LIKENESS, passes)),
    thresholds={"identity": LEAST_IDENTITY, "checklist": LEAST_CHECKLIST},
)


def last_frame(item: Item, shot: int, before: np.ndarray | None, size: tuple[int, int, int]):
    """The last frame of the shot before; for the first shot, the first frame of the procedural clip."""
    start = truth(item.facts, size[0], size[1])[0][0] if before is None else before[-1]
    return [(start, 0)]


CONTINUED = replace(
    EVALUATION,
    name="continued_shots",
    measures=lambda judges: (*measures(judges), Measure("seam ok", PIXELS, seam_ok)),
    model="nano_i2v",
    given=last_frame,
)
