"""Cost of an acceptable clip: seconds of the device for every clip that passes a gate, rejected attempts included.

    mindsora evaluate cost --model nano --output outputs/cost
    mindsora evaluate cost --videos outputs/long_prompts/clips --output outputs/cost

The attempts are the clips of `long_prompts`, long and short prompts each by themselves; with --videos, clips and
manifests that are there already. The gate: O >= 0.8, no mark, flicker >= 0.95. A mark that cannot be told counts as
none. Seconds are those of the manifests without loading, which many clips share; reviewing by people is not counted.

accepted            p = k / n
seconds             of the device, for an attempt
seconds a clip      of all attempts, for an accepted clip; no value where none is accepted
attempts            for one accepted clip with a chance of 90 %: ceil(ln 0.1 / ln(1 - p))
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mindsora.evaluate import long_prompts
from mindsora.evaluate.edits import steps
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.measures import Clip, Judge, Measure, Row, Score
from mindsora.evaluate.running import cost_of
from mindsora.evaluate.shared import judged_once, measure_of
from mindsora.evaluate.watermark import carries_mark

LEAST_OBEDIENCE, LEAST_FLICKER = 0.8, 0.95
CHANCE = 0.9
GATE, MANIFEST = Judge("gate: O >= 0.8, no mark, flicker >= 0.95"), Judge("seconds of the manifests")
FORMS = ("long", "control")


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """Whether the gate accepts a clip, and its seconds; long and short prompts have values of their own."""
    form = clip.item.facts["form"]
    values = {f"accepted {form}": float(accepted(clip))}
    if clip.manifests:
        values[f"seconds {form}"] = cost_of(clip)["seconds"]
    return values


def accepted(clip: Clip) -> bool:
    """Whether a clip passes the gate."""
    obedience = np.mean(list(long_prompts.satisfied(clip).values()))
    flicker = 1 - steps(clip.frames).mean() / 255
    return bool(obedience >= LEAST_OBEDIENCE and not carries_mark(clip.frames) and flicker >= LEAST_FLICKER)


def seconds_a_clip(form: str) -> Callable[[Sequence[Row]], float | None]:
    """A score: seconds of all attempts over the number of accepted clips; None where none is accepted."""

    def of_rows(rows: Sequence[Row]) -> float | None:
        attempts = [row.values for row in rows if row.values.get(f"seconds {form}") is not None]
        kept = sum(values[f"accepted {form}"] for values in attempts)
        return sum(values[f"seconds {form}"] for values in attempts) / kept if kept else None

    return of_rows


def attempts_for(share: float, chance: float = CHANCE) -> int | None:
    """Attempts of which one is accepted with this chance: ceil(ln(1 - chance) / ln(1 - share)); None for share 0."""
    if share <= 0:
        return None
    return 1 if share >= 1 else math.ceil(math.log(1 - chance) / math.log(1 - share))


def attempts(form: str) -> Callable[[Sequence[Row]], float | None]:
    """A score: attempts for one accepted clip with CHANCE."""

    def of_rows(rows: Sequence[Row]) -> float | None:
        values = [value for row in rows if (value := row.values.get(f"accepted {form}")) is not None]
        return attempts_for(float(np.mean(values))) if values else None

    return of_rows


def measures(judges) -> tuple[Measure, ...]:
    """Acceptance and seconds of both forms of prompts."""
    return tuple(
        measure
        for form in FORMS
        for measure in (
            measure_of(judged, f"accepted {form}", GATE),
            measure_of(judged, f"seconds {form}", MANIFEST, (0.0, math.inf), higher_is_better=False),
        )
    )


def scores(measures) -> tuple[Score, ...]:
    """Cost of an accepted clip, and attempts for one."""
    return tuple(
        score
        for form in FORMS
        for score in (
            Score(f"seconds a clip {form}", MANIFEST, seconds_a_clip(form), False, "s"),
            Score(f"attempts {form}", GATE, attempts(form), False),
        )
    )


EVALUATION = Evaluation("cost", __doc__.splitlines()[0], long_prompts.ITEMS, measures, scores)
