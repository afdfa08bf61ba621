"""Image-to-video control: does a clip begin as its picture says, keep its object, move, and do what the prompt says?

    mindsora evaluate image_control --model nano_i2v --output outputs/image_control

`first` items give the first frame of a procedural clip, `transition` items the first and the last. The scores:

gap             dB by which a given frame is worse than its round trip through the autoencoder; worst of the given frames
gap ok          share of clips whose gap is at most 1.5 dB
likeness N      likeness of the object in the first frame and at N % of the clip (a proxy: hues and outline)
moves           share of the clips that change; a copy of the still fails. Not of objects that should stand still
flow            pixels a frame (OpenCV's DIS), the median over the clip
shape, colour, motion   share of clips whose generated frames show what the prompt says; exact on procedural clips
no fade         share of transitions whose middle is no cross-fade: a blend of both ends explains under 60 % of its
                variance. Only objects that travel, on plain backgrounds: elsewhere the true middle is close to a blend
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, DIRECTIONS, Thing, combinations
from mindsora.evaluate.edits import (
    MOST_BLEND,
    MOST_GAP,
    blend_share,
    cropped,
    flow_speed,
    likeness_vector,
    moves,
    psnr_gap,
)
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.items import Item
from mindsora.evaluate.measure import measure
from mindsora.evaluate.measures import Clip, Judge, Measure
from mindsora.evaluate.objects import Seen, objects
from mindsora.evaluate.shared import drawn, judged_once, measure_of, measures_of, obeys, round_trip

ITEMS = Path(__file__).with_name("image_control_items.json")
PROVENANCE = (
    "Drawn by mindsora.evaluate.image_control.frozen_items: first frames of all combinations that nano_i2v's training "
    "left out, and ends of clips of travelling objects."
)
FIRST, TRANSITIONS = 26, 24
PLAIN = ("black", "gray", "white")
SHARES = (25, 50, 75, 100)  # per cent of the clip
EXACT, LIKENESS = Judge("procedural objects"), Judge("hues and outline of the object", kind="proxy")
PIXELS, FLOW = Judge("PSNR against the round trip"), Judge("OpenCV DIS", kind="proxy")


def frozen_items() -> dict:
    """The content of `image_control_items.json`."""
    held_out = combinations("heldout")
    travelling = [thing for motion in DIRECTIONS for thing in combinations("train", motion)]
    things = [held_out[n % len(held_out)] for n in range(FIRST)]
    things += [travelling[5 * n % len(travelling)] for n in range(TRANSITIONS)]
    items = []
    for number, thing in enumerate(things):
        task = "first" if number < FIRST else "transition"
        backgrounds = tuple(BACKGROUNDS) if task == "first" else PLAIN
        items.append(_item(number, task, thing, backgrounds[number % len(backgrounds)]))
    return {"provenance": PROVENANCE, "items": items}


def _item(number: int, task: str, thing: Thing, background: str) -> dict:
    text = caption((thing,), background, np.random.RandomState([number, 22]), style=STYLES[number % len(STYLES)])
    facts = {"task": task, "thing": vars(thing), "background": background, "drawing": number}
    return {"name": f"{task}-{number:02d}", "prompts": [text], "seed": number, "facts": facts}


def given(item: Item, shot: int, before: np.ndarray | None, size: tuple[int, int, int]):
    """The first frame of the item's clip; of a transition the last too."""
    source = drawn(item.facts, size[0], size[1])
    return [(source[n], n) for n in _times(item.facts["task"], size[0])]


def _times(task: str, frames: int) -> list[int]:
    return [0] if task == "first" else [0, frames - 1]


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """The measures of a clip."""
    facts, video = clip.item.facts, clip.frames
    times = _times(facts["task"], len(video))
    source = drawn(facts, *video.shape[:2])
    values = _gap(clip, source, times) | _likeness(video, objects(video))
    values["flow"] = flow_speed(video)
    if facts["thing"]["motion"] != "still":
        values["moves"] = float(moves(video))
    seen = measure(video, range(1, len(video) - (facts["task"] == "transition")))
    values |= obeys(seen, facts["thing"])
    if facts["task"] == "transition":
        share = blend_share(video[0], video[len(video) // 2], video[-1])
        values["no fade"] = None if share is None else float(share < MOST_BLEND)
    return values


def _gap(clip: Clip, source: np.ndarray, times: Sequence[int]) -> dict[str, float | None]:
    back = round_trip(clip, source)
    if back is None:
        return {}
    gap = psnr_gap(source[times], clip.frames[times], back[times])
    return {"gap": gap, "gap ok": float(gap <= MOST_GAP)}


def _likeness(video: np.ndarray, seen: Sequence[Seen]) -> dict[str, float]:
    """Likeness of the largest object, 0 where there is none."""
    if not seen:
        return {f"likeness {share}": 0.0 for share in SHARES}
    masks = seen[0].masks
    first = likeness_vector(cropped(video[0], masks[0]))
    at = {share: round(share / 100 * (len(video) - 1)) for share in SHARES}
    return {
        f"likeness {share}": float(np.clip(first @ likeness_vector(cropped(video[n], masks[n])), 0, 1))
        for share, n in at.items()
    }


def measures(judges) -> tuple[Measure, ...]:
    """All measures of this test."""
    return (
        measure_of(judged, "gap", PIXELS, (-100.0, 100.0), higher_is_better=False),
        measure_of(judged, "gap ok", PIXELS),
        *measures_of(judged, [f"likeness {share}" for share in SHARES], LIKENESS),
        measure_of(judged, "moves", PIXELS),
        measure_of(judged, "flow", FLOW, (0.0, float("inf")), higher_is_better=None),
        *measures_of(judged, ("shape", "colour", "motion"), EXACT),
        measure_of(judged, "no fade", PIXELS),
    )


EVALUATION = Evaluation(
    "image_control",
    __doc__.splitlines()[0],
    ITEMS,
    measures,
    thresholds={"gap ok": 0.9, "moves": 0.95, "motion": 0.8, "no fade": 0.95},
    model="nano_i2v",
    given=given,
)
