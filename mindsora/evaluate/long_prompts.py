"""Long-prompt obedience: which of the facts of a long text does a clip show, and do later facts get lost?

    mindsora evaluate long_prompts --model nano --output outputs/long_prompts

Every item describes two objects with their places, movements and order in 80 to 110 words, sentence by sentence in an
order of its own, in nano's vocabulary. Twelve checks were written with the text; each has the position, from 0 to 1, of
the sentence that says it first. `control` items say the same in at most 20 words. The scores:

obedience        O: the share of the checks that a clip satisfies; mean over the long prompts
control          the same over the short ones; control subject ... of one category
subject ...      the share of satisfied checks of one category, over the long prompts
position slope   slope of a line through (position, satisfied): 0 is wanted, below 0 the end of the text gets lost
within limit, beyond limit   O over the checks that the text encoders read, and over those that were cut off
read             share of a long prompt's words that the text encoders read; from the manifests

The judge is exact on procedural clips (`objects`): it needs gray backgrounds and objects of the colours of the data.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindsora.data.toy.captions import BACKDROP, DOES, WHERE, caption
from mindsora.data.toy.procedural import BACKGROUNDS, MOTIONS, Thing, combinations
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.marks import marks
from mindsora.evaluate.measures import Clip, Judge, Row, Score
from mindsora.evaluate.objects import Seen, background_of, objects
from mindsora.evaluate.shared import judged_once, mean_over, measures_of

ITEMS = Path(__file__).with_name("long_prompts_items.json")
COUNT = 50
PAIRED = ("subject", "attribute", "place", "action")  # categories with a check for each object
CATEGORIES = (*PAIRED, "count", "order", "style", "text-free")
CHECKS = (*(f"{name} {number}" for name in PAIRED for number in (1, 2)), "count", "order", "style", "text-free")
CONTROLS = tuple(f"control {name}" for name in CATEGORIES)
JUDGE = Judge("procedural objects")
PROVENANCE = (
    "Texts and checks are drawn by mindsora.evaluate.long_prompts.frozen_items from the vocabulary of the nano captions; "
    "objects are combinations of nano's training, pairs are drawn."
)
PLACES = (("left", "right"), ("top", "bottom"))
SIDE = 6.0  # pixels of a 64 x 64 frame from the middle; half of the nearest centre of an object in its half


def frozen_items() -> dict:
    """The content of `long_prompts_items.json`: COUNT long texts and their controls."""
    items = []
    for number in range(COUNT):
        rng = np.random.RandomState([number, 19])
        things, places, background = _scene(number, rng)
        text, checks = _long_text(things, places, background, rng)
        short = caption(things, background, rng, places, style="tags")
        scene = {"background": background, "things": [vars(thing) for thing in things], "places": list(places)}
        for form, words in (("long", text), ("control", short)):
            facts = {"form": form, "checks": checks, "words": len(words.split())} | scene
            name, group = f"{form}-{number:02d}", f"{number:02d}"
            items.append({"name": name, "prompts": [words], "seed": number, "facts": facts, "group": group})
    return {"provenance": PROVENANCE, "items": items}


def _scene(number: int, rng: np.random.RandomState) -> tuple[tuple[Thing, Thing], tuple[str, str], str]:
    """Two objects of different colours, their places, and the background."""
    places = PLACES[number % 2]
    across = ("left", "right") if places[0] == "left" else ("up", "down")  # does not fit into half a frame
    motions = [motion for motion in MOTIONS if motion not in across]
    choices = [combinations("train", motions[rng.randint(len(motions))]) for _ in range(2)]
    first = choices[0][rng.randint(len(choices[0]))]
    others = [thing for thing in choices[1] if thing.colour != first.colour]
    second = others[rng.randint(len(others))]
    return (first, second), places, tuple(BACKGROUNDS)[number % len(BACKGROUNDS)]


def _long_text(things, places, background: str, rng) -> tuple[str, list[dict]]:
    """The text, its sentences in random order, and the checks with the positions of their sentences' ends."""
    a, b = (f"{thing.colour} {thing.shape}" for thing in things)
    at_a, at_b = (WHERE[place] for place in places)
    behind = BACKDROP[background]
    sentences = [
        (f"On a {behind}, on the {behind}, on a {behind}.", ["style"]),
        (f"A {a}, the {a}, a {a} and the {a}.", ["subject 1", "attribute 1"]),
        (f"A {b}, the {b}, a {b} and the {b}.", ["subject 2", "attribute 2"]),
        (f"The {a} {at_a}, a {a} {at_a}, the {a} {at_a}.", ["place 1"]),
        (f"The {b} {at_b}, a {b} {at_b}, the {b} {at_b}.", ["place 2"]),
        (_movement(f"The {a}", things[0].motion), ["action 1"]),
        (_movement(f"The {b}", things[1].motion), ["action 2"]),
    ]
    ordered = [sentences[number] for number in rng.permutation(len(sentences))]
    ends = np.cumsum([len(text.split()) for text, _ in ordered])
    said = {name: round(end / ends[-1], 4) for (_, names), end in zip(ordered, ends) for name in names}
    said["count"] = max(said["subject 1"], said["subject 2"])
    said["order"] = max(said["place 1"], said["place 2"])
    checks = [{"name": name, "position": said.get(name)} for name in CHECKS]  # the text says nothing of text
    return " ".join(text for text, _ in ordered), checks


def _movement(subject: str, motion: str) -> str:
    first, second, third = DOES[motion]
    return f"{subject} {first}, {second} and {third}."


def satisfied(clip: Clip) -> dict[str, bool]:
    """Whether a clip satisfies each check of its item."""
    facts = clip.item.facts
    seen = objects(clip.frames)
    checks = {
        "count": len(seen) == len(facts["things"]),
        "style": background_of(clip.frames, seen) == facts["background"],
        "text-free": not marks(clip.frames).boxes,
    }
    pair = [_matching(seen, thing["colour"]) for thing in facts["things"]]
    for number, (one, thing, place) in enumerate(zip(pair, facts["things"], facts["places"], strict=True), 1):
        checks |= {
            f"attribute {number}": one is not None,
            f"subject {number}": any(other.shape == thing["shape"] for other in ([one] if one else seen)),
            f"place {number}": one is not None and _beside(one, place) > SIDE,
            f"action {number}": one is not None and one.motion == thing["motion"],
        }
    checks["order"] = None not in pair and _beside(pair[0], facts["places"][0]) > _beside(pair[1], facts["places"][0])
    return checks


def _matching(seen: Sequence[Seen], colour: str) -> Seen | None:
    return next((one for one in seen if one.colour == colour), None)


def _beside(one: Seen, place: str) -> float:
    """How far an object is on a side of the frame, in pixels of a 64 x 64 frame."""
    return {"left": -one.x, "right": one.x, "top": -one.y, "bottom": one.y}[place]


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """The measures of a clip: every check, O, and the share of the prompt that was read."""
    checks = satisfied(clip)
    share = float(np.mean(list(checks.values())))
    if clip.item.facts["form"] == "control":
        return {"control": share} | {f"control {name}": _share_of(checks, name) for name in CATEGORIES}
    return {name: float(value) for name, value in checks.items()} | {"obedience": share, "read": _read(clip)}


def _share_of(checks: dict[str, bool], category: str) -> float:
    return float(np.mean([value for name, value in checks.items() if name.split()[0] == category]))


def _read(clip: Clip) -> float | None:
    """Share of the words that every text encoder reads; None without a manifest."""
    if not clip.manifests:
        return None
    cut = clip.manifests[0]["text"]["cut_off"].values()
    return 1 - max((len(words.split()) for words in cut), default=0) / len(clip.item.prompts[0].split())


def _points(rows: Sequence[Row]) -> list[tuple[float, float, float | None]]:
    """(position, satisfied, share of the prompt that was read) of every check with a position."""
    return [
        (check["position"], row.values[check["name"]], row.values["read"])
        for row in rows
        if row.item.facts["form"] == "long"
        for check in row.item.facts["checks"]
        if check["position"] is not None
    ]


def slope(rows: Sequence[Row]) -> float | None:
    """Slope of the least-squares line through (position, satisfied)."""
    points = _points(rows)
    return float(np.polyfit(*np.array([point[:2] for point in points], float).T, 1)[0]) if points else None


def within_limit(rows: Sequence[Row]) -> float | None:
    """O over the checks whose first sentence was read whole."""
    return _mean([value for position, value, read in _points(rows) if read is not None and position <= read])


def beyond_limit(rows: Sequence[Row]) -> float | None:
    """O over the checks whose first sentence was cut."""
    return _mean([value for position, value, read in _points(rows) if read is not None and position > read])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def scores(measures) -> tuple[Score, ...]:
    """O of the categories with two checks, and what depends on the position in the text."""
    paired = [mean_over(name, JUDGE, [f"{name} 1", f"{name} 2"]) for name in PAIRED]
    return (
        *paired,
        Score("position slope", JUDGE, slope),
        Score("within limit", JUDGE, within_limit),
        Score("beyond limit", JUDGE, beyond_limit),
    )


EVALUATION = Evaluation(
    "long_prompts",
    __doc__.splitlines()[0],
    ITEMS,
    lambda judges: measures_of(judged, (*CHECKS, "obedience", "control", *CONTROLS, "read"), JUDGE),
    scores,
    thresholds={"obedience": 0.8, "control": 0.8, "position slope": -0.1},
)
