"""Temporal editing: continue, prepend, fill a gap, replace an interval, change the speed, and keep all other frames.

    mindsora evaluate editing --model nano_i2v --output outputs/editing

Every item gives some frames of a procedural clip at their times; the model makes the others:

continue   the first half is given
prepend    the second half is given
fill       both ends are given, 7 frames between them are made
replace    the same of a clip that stands still, but the prompt asks for rotation in between
slow       every frame of the first half is given at twice its time: half the speed

The scores are

gap        dB by which a kept frame is worse than its round trip through the autoencoder; worst of the kept frames
kept       share of clips whose gap is at most 1.5 dB
seam       difference of frames at a border over the median difference inside; worst of the borders
seam ok    share of clips whose seam is at most 2
shape, colour, motion   share of clips whose edited frames show what the prompt says; exact on procedural clips
speed      travel of `slow` clips over the travel asked for
speed ok   share of `slow` clips within 20 % of it
"""

from pathlib import Path

import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, DIRECTIONS, Thing, combinations
from mindsora.errors import InputError
from mindsora.evaluate.edits import MOST_GAP, MOST_SEAM, psnr_gap, seam_ratio
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.items import Item
from mindsora.evaluate.measure import Measured, measure
from mindsora.evaluate.measures import Clip, Judge, Measure
from mindsora.evaluate.shared import drawn, judged_once, measure_of, measures_of, obeys, round_trip

ITEMS = Path(__file__).with_name("editing_items.json")
PROVENANCE = (
    "Drawn by mindsora.evaluate.editing.frozen_items from combinations that nano_i2v's training left out; `replace` and "
    "`slow` from those of the training, which has three left-out combinations a motion."
)
TASKS = ("continue", "prepend", "fill", "replace", "slow")
EACH = 10  # items of a task
SPEED = 0.2  # share by which the speed may differ
EXACT, PIXELS = Judge("procedural objects"), Judge("PSNR against the round trip")


def frozen_items() -> dict:
    """The content of `editing_items.json`."""
    items = [_item(task, number) for task in TASKS for number in range(EACH)]
    return {"provenance": PROVENANCE, "items": items}


def _item(task: str, number: int) -> dict:
    drawing = 100 * (1 + TASKS.index(task)) + number
    thing = _thing(task, number)
    asked = Thing(thing.shape, thing.colour, "rotating") if task == "replace" else thing
    background = tuple(BACKGROUNDS)[number % len(BACKGROUNDS)]
    text = caption((asked,), background, np.random.RandomState([drawing, 23]), style=STYLES[number % len(STYLES)])
    facts = {"task": task, "thing": vars(thing), "asked": asked.motion, "background": background, "drawing": drawing}
    return {"name": f"{task}-{number:02d}", "prompts": [text], "seed": drawing, "facts": facts}


def _thing(task: str, number: int) -> Thing:
    if task == "replace":
        choices = [thing for thing in combinations("train", "still") if thing.shape != "circle"]
    elif task == "slow":
        choices = [thing for motion in DIRECTIONS for thing in combinations("train", motion)]
    else:
        choices = combinations("heldout")
    return choices[7 * number % len(choices)]


def kept(task: str, frames: int) -> list[int]:
    """Numbers of the frames that are given."""
    half = frames // 2
    if task == "continue":
        return list(range(half + 1))
    if task == "prepend":
        return list(range(half, frames))
    if task == "slow":
        return list(range(0, frames, 2))
    end = (frames - 7) // 2
    return [*range(end), *range(frames - end, frames)]


def given(item: Item, shot: int, before: np.ndarray | None, size: tuple[int, int, int]):
    """The frames of the item's clip at their times."""
    frames, height, _ = size
    if frames < 17:
        raise InputError(f"num_frames = {frames}: editing needs at least 17, of which 7 are made anew")
    source = drawn(item.facts, frames, height)
    return [(source[_origin(item.facts["task"], n)], n) for n in kept(item.facts["task"], frames)]


def _origin(task: str, number: int) -> int:
    """The frame of the source that is given at a time."""
    return number // 2 if task == "slow" else number


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """The measures of a clip."""
    facts = clip.item.facts
    task, video, asked = facts["task"], clip.frames, facts["thing"] | {"motion": facts["asked"]}
    given_at = kept(task, len(video))
    source = drawn(facts, *video.shape[:2])
    shown = source[[_origin(task, n) for n in range(len(video))]]
    values = _kept(clip, shown, given_at)
    if task == "slow":
        return values | obeys(measure(video), asked) | _speed(measure(video), measure(source))
    made = [n for n in range(len(video)) if n not in given_at]
    borders = [n for n in (made[0], made[-1] + 1) if 0 < n < len(video)]
    seam = seam_ratio(video, borders)
    values |= {"seam": seam, "seam ok": float(seam <= MOST_SEAM)}
    return values | obeys(measure(video, range(made[0], made[-1] + 1)), asked)


def _kept(clip: Clip, shown: np.ndarray, numbers: list[int]) -> dict[str, float | None]:
    back = round_trip(clip, shown)
    if back is None:
        return {}
    gap = psnr_gap(shown[numbers], clip.frames[numbers], back[numbers])
    return {"gap": gap, "kept": float(gap <= MOST_GAP)}


def _speed(seen: Measured, source: Measured) -> dict[str, float]:
    """The travel of a whole clip over half of its source's."""
    asked = np.hypot(*source.track["travel"]) / 2
    speed = float(np.hypot(*seen.track["travel"]) / asked) if seen.motion else 0.0
    return {"speed": speed, "speed ok": float(abs(speed - 1) <= SPEED)}


def measures(judges) -> tuple[Measure, ...]:
    """All measures of this test."""
    return (
        measure_of(judged, "gap", PIXELS, (-100.0, 100.0), higher_is_better=False),
        measure_of(judged, "kept", PIXELS),
        measure_of(judged, "seam", PIXELS, (0.0, 255.0), higher_is_better=False),
        measure_of(judged, "seam ok", PIXELS),
        *measures_of(judged, ("shape", "colour", "motion"), EXACT),
        measure_of(judged, "speed", EXACT, (0.0, float("inf")), higher_is_better=None),
        measure_of(judged, "speed ok", EXACT),
    )


EVALUATION = Evaluation(
    "editing",
    __doc__.splitlines()[0],
    ITEMS,
    measures,
    thresholds={"kept": 0.9, "seam ok": 0.9, "motion": 0.8, "speed ok": 0.8},
    model="nano_i2v",
    given=given,
)
