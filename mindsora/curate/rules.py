"""Decisions over scores: which step drops a clip and why, and what the crops leave of its frames."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mindsora.curate.clips import Box
from mindsora.curate.settings import Bounds, Rules
from mindsora.curate.text_boxes import without_text

# Motion scores that stay, both bounds included. LPIPS: the paper's. Flow: ours. Stills with grain score up to 0.0004, the
# real clips of the tests 0.003 to 0.02. Shaking saturates the flow at 0.05: the step `flicker` is what finds it.
MOTION_BOUNDS = {"lpips": (0.001, 0.3), "flow": (0.0005, 0.1)}
UNSCORED, UNREADABLE = "unscored", "unreadable"
CROPPED_AFTER = {"picture": ("picture",), "text": ("picture", "text")}  # which scores a crop is made of


class Step(NamedTuple):
    """One decision. stage: whose score it reads; None: the record alone."""

    name: str
    stage: str | None
    reason: Callable[[dict, Rules], str | None]


class Passed(NamedTuple):
    """A step that a clip reached; reason: why it was dropped there, or None."""

    step: str
    reason: str | None


def crop_of(record: dict, rules: Rules, after: str | None) -> Box | None:
    """What the crops up to the stage `after` leave of a clip's frames; None: the whole frame."""
    whole = 0, record["resolution"]["width"], 0, record["resolution"]["height"]
    box = whole
    for stage in CROPPED_AFTER.get(after or "", ()):
        value = record["scores"].get(stage, {}).get("value")
        if value and stage == "picture":
            box = tuple(value["box"] or whole)
        elif value:
            box = without_text([one for boxes in value["boxes"] for one in boxes], box, rules.text.limit)
    return None if box == whole else box


def walk(record: dict, rules: Rules, skipped: set[str] | dict, until: str | None = None) -> Iterator[Passed]:
    """The steps of a clip in order, up to the one that drops it.

    Args:
        skipped: stages without a judge; their steps do not happen.
        until: a stage; the steps of it and of later ones are left out.
    """
    if "failed" in record:
        yield Passed(UNREADABLE, record["failed"]["message"])
        return
    before = STAGE_ORDER[: STAGE_ORDER.index(until)] if until else STAGE_ORDER
    for step in STEPS:
        if step.stage in skipped or (step.stage and step.stage not in before):
            continue
        if step.stage is None and until and step.name in LAST:
            continue
        passed = _taken(step, record, rules)
        yield passed
        if passed.reason is not None:
            return


def dropped(record: dict, rules: Rules, skipped: set[str] | dict, until: str | None = None) -> Passed | None:
    """The step that drops a clip, or None."""
    *_, last = walk(record, rules, skipped, until)
    return last if last.reason is not None else None


def _taken(step: Step, record: dict, rules: Rules) -> Passed:
    if step.stage:
        score = record["scores"].get(step.stage)
        if score is None or not is_current(record, score, step.stage, rules):
            return Passed(
                UNSCORED, f"{step.stage} has no score under these settings; `mindsora curate run` computes it"
            )
        if "failed" in score:
            return Passed(UNREADABLE, f"{step.stage}: {score['failed']}")
    return Passed(step.name, step.reason(record, rules))


def is_current(record: dict, score: dict, stage: str, rules: Rules) -> bool:
    """Whether a score was measured on what the crops of these rules leave."""
    crop = crop_of(record, rules, SEES.get(stage))
    return score.get("crop") == (crop and list(crop))


def _value(record: dict, stage: str):
    return record["scores"][stage]["value"]


def _length(record: dict, rules: Rules) -> str | None:
    frames = record["num_frames"]
    return f"{frames} frames, fewer than {rules.length.min}" if frames < rules.length.min else None


def bounds_of(judge: str, bounds: Bounds) -> tuple[float, float]:
    """Lowest and highest motion that stay, of a judge such as "flow 1"."""
    low, high = MOTION_BOUNDS[judge.split()[0]]
    return (low if bounds.min is None else bounds.min), (high if bounds.max is None else bounds.max)


def _motion(stage: str) -> Callable[[dict, Rules], str | None]:
    def reason(record: dict, rules: Rules) -> str | None:
        value = _value(record, stage)
        low, high = bounds_of(record["scores"][stage]["judge"], rules.motion)
        if value < low:
            return f"motion {value:.5f} is below {low:g}: a still"
        return f"motion {value:.4f} is above {high:g}" if value > high else None

    return reason


def _share(key: str, text: str) -> Callable[[dict, Rules], str | None]:
    def reason(record: dict, rules: Rules) -> str | None:
        value, most = _value(record, "picture")[key], getattr(rules.picture, key)
        return f"{text} {value:g} is above {most:g}" if value > most else None

    return reason


def _letterbox(record: dict, rules: Rules) -> str | None:
    box, size = _value(record, "picture")["box"], record["resolution"]
    if not box:
        return None
    bars = 1 - (box[1] - box[0]) * (box[3] - box[2]) / (size["height"] * size["width"])
    return (
        f"black bars cover {bars:.2f} of the frame, more than {rules.picture.letterbox:g}"
        if bars > (rules.picture.letterbox)
        else None
    )


def _never(record: dict, rules: Rules) -> str | None:
    """Cropping drops no clip."""
    return None


def _aesthetic(record: dict, rules: Rules) -> str | None:
    value, least = _value(record, "aesthetic"), rules.aesthetic.min
    return f"aesthetic {value:.3f} is below {least:g}" if value < least else None


def _technical(record: dict, rules: Rules) -> str | None:
    value, bound = _value(record, "technical"), rules.technical.above
    return f"technical {value:.3f} is not above {bound:g}" if value <= bound else None


def _duplicate(record: dict, rules: Rules) -> str | None:
    other = record.get("duplicate_of")
    return f"repeats {other}" if other else None


def _at_most(stage: str) -> Callable[[dict, Rules], str | None]:
    def reason(record: dict, rules: Rules) -> str | None:
        value, most = _value(record, stage), getattr(rules, stage).max
        return f"{stage} {value:.3f} is above {most:g}" if value > most else None

    return reason


def _caption(record: dict, rules: Rules) -> str | None:
    return None if _value(record, "captions") else "nothing is left of its caption without the prefix"


def _licence(record: dict, rules: Rules) -> str | None:
    return "no licence is stated" if rules.licence.required and not record["licence"] else None


STEPS = (
    Step("length", None, _length),
    Step("motion", "motion", _motion("motion")),
    Step("black", "picture", _share("black", "share of black frames")),
    Step("frozen", "picture", _share("frozen", "share of frozen frames")),
    Step("flicker", "picture", _share("flicker", "flicker")),
    Step("letterbox", "picture", _letterbox),
    Step("text", "text", _never),
    Step("aesthetic", "aesthetic", _aesthetic),
    Step("technical", "technical", _technical),
    Step("recheck", "recheck", _motion("recheck")),
    Step("duplicate", "hashes", _duplicate),
    Step("watermark", "watermark", _at_most("watermark")),
    Step("unsafe", "unsafe", _at_most("unsafe")),
    Step("caption", "captions", _caption),
    Step("licence", None, _licence),
)
LAST = ("licence",)
STAGE_ORDER = tuple(dict.fromkeys(step.stage for step in STEPS if step.stage))
# The crop of a stage's pictures: text is looked for between the bars, later stages see the clip as it is trained on.
SEES = {"text": "picture"} | {stage: "text" for stage in STAGE_ORDER[STAGE_ORDER.index("text") + 1 :]}
