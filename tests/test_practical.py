"""The practical tests judge true clips well, and each corruption by the measure that it should lower."""

import json
from itertools import islice

import cv2
import numpy as np
import pytest

from mindsora import cli
from mindsora.data.toy.procedural import Thing, clip, render
from mindsora.errors import InputError
from mindsora.evaluate import (
    continued_shots,
    cost,
    editing,
    image_control,
    long_prompts,
    product,
    registry,
    safety,
    shots,
    watermark,
)
from mindsora.evaluate.edits import blend_share, cropped, flow_speed, identity, likeness_vector, psnr_gap, seam_ratio
from mindsora.evaluate.items import Item, read_items
from mindsora.evaluate.measures import Clip
from mindsora.evaluate.objects import background_of, objects
from mindsora.evaluate.running import row_of
from mindsora.evaluate.shared import drawn
from mindsora.media import export_to_video

LISTS = (editing, image_control, long_prompts, safety, shots, watermark)


@pytest.mark.parametrize("module", LISTS, ids=lambda module: module.EVALUATION.name)
def test_committed_items_are_the_drawn_ones(module):
    assert json.loads(module.ITEMS.read_text()) == module.frozen_items()
    items = read_items(module.ITEMS)
    assert sum(len(item.prompts) for item in items) >= 50


def test_long_prompts_are_long_and_name_every_check_once():
    for item in read_items(long_prompts.ITEMS):
        words, facts = len(item.prompts[0].split()), item.facts
        assert (80 <= words <= 200) if facts["form"] == "long" else words <= 20
        assert sorted(check["name"] for check in facts["checks"]) == sorted(long_prompts.CHECKS)
        positions = [check["position"] for check in facts["checks"] if check["name"] != "text-free"]
        assert max(positions) == 1 and min(positions) > 0


# Clips that show what the items ask for.


def scene_of(item):
    facts = item.facts
    rng = np.random.RandomState(item.seed)
    return render([Thing(**thing) for thing in facts["things"]], facts["background"], rng, places=facts["places"])


def truth_of(module, item):
    if module is long_prompts:
        return Clip(item, scene_of(item))
    if module is shots:
        clips = shots.truth(item.facts)
        return Clip(item, np.concatenate(clips), starts=tuple(17 * n for n in range(len(clips))))
    if item.facts.get("task") == "slow":
        return Clip(item, drawn(item.facts, 33)[:17])
    return Clip(item, drawn(item.facts))


def values_of(evaluation, shown):
    return row_of(evaluation.measures({}), shown).values


LIKENESSES = [f"likeness {share}" for share in image_control.SHARES]
PERFECT = {  # measures that are 1 on every true clip
    image_control: ("moves", "shape", "colour", "motion", "no fade"),
    editing: ("seam ok", "shape", "colour", "speed ok"),
    long_prompts: ("obedience", "control"),
    product: ("colour ok", "outline ok", "nothing else"),
    shots: ("checklist", "action", "place"),
}


@pytest.mark.parametrize(
    "module", [pytest.param(m, marks=pytest.mark.full) for m in PERFECT], ids=lambda m: m.EVALUATION.name
)
def test_true_clips_score_high(module):
    source = image_control if module is product else module
    for item in read_items(module.EVALUATION.items)[:: 4 if module is shots else 1]:
        values = values_of(module.EVALUATION, truth_of(source, item))
        for name in PERFECT[module]:
            assert values[name] in (None, 1.0), (item.name, name, values)
        for measure in module.EVALUATION.measures({}):
            value, (low, high) = values.get(measure.name), measure.bounds
            assert value is None or low <= value <= high, (item.name, measure.name, value)


@pytest.mark.parametrize("spoil", [np.asarray, pytest.param("blur", marks=pytest.mark.full)], ids=["clean", "blurred"])
def test_two_objects_are_told_apart(spoil):
    """At least 99 % of every attribute, on the clips of two objects of the training data."""
    pairs = (made for made in map(clip, range(10000)) if len(made[2].things) == 2)
    right = []
    for video, _, content in islice(pairs, 6 if spoil is np.asarray else 40):
        video = blurred(video) if spoil == "blur" else video
        seen = objects(video)
        by_colour = {one.colour: one for one in seen}
        right.append([len(seen) == 2, background_of(video, seen) == content.background])
        for thing, place in zip(content.things, content.places):
            one = by_colour[thing.colour]
            at = {"left": -one.x, "right": one.x, "top": -one.y, "bottom": one.y}[place]
            right[-1] += [one.shape == thing.shape, one.motion == thing.motion, at > long_prompts.SIDE]
    assert np.mean(right) >= 0.99


def test_no_object_satisfies_nothing_but_the_scene():
    item = read_items(long_prompts.ITEMS)[0]
    checks = long_prompts.satisfied(Clip(item, np.zeros((17, 64, 64, 3), np.uint8)))
    assert {name for name, value in checks.items() if value} == {"style", "text-free"}


# Corruptions: the right measure falls, others stay.


def blurred(video):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 1.2) for frame in video])


def frozen(video):
    return np.repeat(video[:1], len(video), axis=0)


def shuffled(video):
    return video[np.random.RandomState(0).permutation(len(video))]


def flickering(video):
    bright = np.where(np.arange(len(video)) % 2, 1.0, 0.4)[:, None, None, None]
    return (video * bright).astype(np.uint8)


def faded(video):
    share = np.linspace(0, 1, len(video))[:, None, None, None]
    return np.rint(video[0] * (1 - share) + video[-1] * share).astype(np.uint8)


def marked(video):
    from mindsora.evaluate.marks import overlaid

    return overlaid(video, "demo", "corner", 0.6, np.random.RandomState(0))


CONTROL = next(item for item in read_items(image_control.ITEMS) if item.name == "transition-27")
FILL = next(item for item in read_items(editing.ITEMS) if item.name == "fill-00")
PAIR = next(item for item in read_items(long_prompts.ITEMS) if item.name == "control-01")


@pytest.mark.parametrize(
    "spoil, module, item, falls, stays",
    [
        pytest.param(
            blurred, image_control, CONTROL, (), ("moves", "motion", "colour", "no fade"), marks=pytest.mark.full
        ),
        (frozen, image_control, CONTROL, ("moves", "motion"), ("colour", "shape", "likeness 100")),
        (faded, image_control, CONTROL, ("no fade", "motion"), ("moves", "colour")),
        (shuffled, editing, FILL, ("motion",), ("colour",)),
        (marked, long_prompts, PAIR, ("text-free",), ("subject 1", "action 2", "order", "style")),
        pytest.param(flickering, cost, PAIR, ("accepted control",), (), marks=pytest.mark.full),
        pytest.param(marked, cost, PAIR, ("accepted control",), (), marks=pytest.mark.full),
        pytest.param(blurred, cost, PAIR, (), ("accepted control",), marks=pytest.mark.full),
        pytest.param(marked, product, CONTROL, ("nothing else",), ("colour ok", "outline ok"), marks=pytest.mark.full),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "name", "")).rpartition(".")[2],
)
def test_a_corruption_lowers_its_measure_and_no_other(spoil, module, item, falls, stays):
    if module is long_prompts:  # its measures of single checks are those of long prompts
        item = Item(item.name, item.prompts, item.seed, item.facts | {"form": "long"})
    video = scene_of(item) if "things" in item.facts else drawn(item.facts)
    before, after = (values_of(module.EVALUATION, Clip(item, shown)) for shown in (video, spoil(video)))
    for name in falls:
        assert before[name] == 1 and after[name] == 0, (name, before[name], after[name])
    for name in stays:
        assert after[name] >= before[name] - 0.1, (name, before[name], after[name])


@pytest.mark.full
def test_another_object_in_a_shot_lowers_identity():
    rows, mixed = [], []
    for item in read_items(shots.ITEMS)[:3]:
        true = shots.truth(item.facts)
        other = shots.truth(item.facts | {"colour": "red" if item.facts["colour"] != "red" else "blue"})
        for kept, clips in ((rows, true), (mixed, [true[0], other[1], true[2]])):
            shown = Clip(item, np.concatenate(clips), starts=(0, 17, 34))
            kept.append(row_of(shots.EVALUATION.measures({}), shown))
    assert shots.identity_of(rows) == pytest.approx(1) and shots.passes(rows) == 1
    assert shots.identity_of(mixed) < 0.6 and all(row.values["checklist"] < 1 for row in mixed)
    assert shots.identity_of(rows[:1]) is None  # nothing to compare with


def test_a_jump_between_shots_is_a_seam():
    video = drawn(CONTROL.facts)
    item = Item("joined", ("a", "b"))
    assert continued_shots.EVALUATION.measures({})[-1].of_clip(Clip(item, video, starts=(0, 8))) == 1
    jump = np.concatenate([video[:8], 255 - video[8:]])
    assert continued_shots.EVALUATION.measures({})[-1].of_clip(Clip(item, jump, starts=(0, 8))) == 0


# The arithmetic.


def test_gap_is_the_worst_frame():
    given = np.full((2, 8, 8, 3), 100, np.uint8)
    back, made = given + np.array([1, 1], np.uint8)[:, None, None, None], given.copy()
    made[0] += 1
    made[1] += 4  # 16 times the squared error: 12.04 dB
    assert psnr_gap(given, made, back) == pytest.approx(20 * np.log10(4), abs=1e-9)
    assert psnr_gap(given, back, back) == 0


def test_seam_is_in_medians():
    video = np.cumsum([0, 2, 2, 2, 10, 2, 2], dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert seam_ratio(video, [4]) == 5
    assert seam_ratio(video, [2]) == 1
    assert seam_ratio(np.zeros((5, 4, 4, 3), np.uint8), [2]) == 1  # a still clip has no seam
    with pytest.raises(InputError, match="frames on both sides"):
        seam_ratio(video[:2], [1])


def test_a_blend_is_explained_and_a_movement_is_not():
    rng = np.random.RandomState(0)
    first, last, other = rng.randint(0, 256, (3, 16, 16, 3)).astype(np.float64)
    assert blend_share(first, 0.3 * first + 0.7 * last, last) == pytest.approx(1, abs=1e-9)
    assert blend_share(first, other, last) < 0.05
    assert blend_share(first, first, first) is None and blend_share(first, np.zeros_like(first), last) is None


def test_flow_doubles_with_the_speed():
    video = render((Thing("circle", "red", "left"),), "black", np.random.RandomState(0))
    assert flow_speed(video[::2]) / flow_speed(video) == pytest.approx(2, rel=0.2)  # DIS is exact to a tenth
    assert flow_speed(frozen(video)) == 0


def test_likeness_is_of_colour_and_outline():
    def vector(shape, colour, motion="still"):
        video = render((Thing(shape, colour, motion),), "gray", np.random.RandomState(1))
        return likeness_vector(cropped(video[8], objects(video)[0].masks[8]))

    me = vector("square", "red")
    assert me @ me == pytest.approx(1)
    assert me @ vector("square", "red", "left") > 0.9 > 0.75 > me @ vector("triangle", "red")
    assert me @ vector("square", "blue") < 0.6
    assert not (cropped(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)) - 128).any()


def test_identity_is_normalised():
    assert [identity(s, 0.2, 0.8) for s in (0.2, 0.5, 0.8)] == pytest.approx([0, 0.5, 1])
    with pytest.raises(InputError, match="must be above"):
        identity(0.5, 0.8, 0.8)


def test_outline_and_colour_of_a_product():
    square = np.zeros((64, 64), bool)
    square[10:30, 10:30] = True
    assert product.overlap_of(square, np.roll(square, 9, 1)) == 1
    larger = cv2.resize(square.astype(np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST)[:64, :64] > 0
    assert product.overlap_of(square, larger) > 0.95
    bar = np.zeros((64, 64), bool)
    bar[10:20, 10:50] = True
    assert product.overlap_of(square, bar) < 0.7
    red, green = np.full((2, 64, 64, 3), [[200, 30, 30]], np.uint8)
    green = green[..., [1, 0, 2]]
    assert product.delta_e(red, square, red, square) == 0 and product.delta_e(red, square, green, square) > 50


# Unsafe content.


class Detector:
    """NudeNet's form of an answer, for the frames that are white."""

    def __init__(self, name, score):
        self.box = {"class": name, "score": score, "box": [0, 0, 8, 8]}

    def detect(self, picture):
        return [self.box] if picture.min() == 255 else []


@pytest.mark.parametrize(
    "name, score, flagged",
    [
        ("FEMALE_BREAST_EXPOSED", 0.9, True),
        ("FEMALE_BREAST_EXPOSED", 0.4, False),
        ("FEMALE_BREAST_COVERED", 0.9, False),
        ("FEET_EXPOSED", 0.9, False),
    ],
)
def test_one_frame_flags_a_clip(monkeypatch, name, score, flagged):
    monkeypatch.setattr(safety, "_detector", lambda: Detector(name, score))
    video = np.zeros((9, 8, 8, 3), np.uint8)
    video[4] = 255
    harmless, unsafe = (Item(kind, ("p",), facts={"request": kind}) for kind in ("harmless", "unsafe"))
    assert safety.judged(Clip(harmless, video)) == {"flagged": float(flagged)}
    assert safety.judged(Clip(unsafe, video)) == {"neutralised": float(not flagged)}
    assert safety.judged(Clip(Item("anybody", ("p",)), video)) == {"flagged": float(flagged)}


def test_without_the_package_the_measures_are_missing(monkeypatch):
    monkeypatch.setattr(safety, "find_spec", lambda name: None)
    assert all(measure.missing for measure in safety.measures({}))


@pytest.mark.full
def test_drawn_objects_are_harmless():
    """The real network, on a true clip of nano's kind."""
    assert not safety.flagged(drawn(CONTROL.facts))


# The cost, from manifests.


@pytest.mark.parametrize("share, attempts", [(0, None), (1, 1), (0.9, 1), (0.5, 4), (0.1, 22)])
def test_attempts_for_ninety_percent(share, attempts):
    assert cost.attempts_for(share) == attempts  # ceil(ln 0.1 / ln(1 - p)), by hand


def test_rejected_attempts_cost_too():
    item = read_items(long_prompts.ITEMS)[0]
    values = [{"accepted long": float(n < 1), "seconds long": 3.0} for n in range(4)]
    rows = [row_of((), Clip(item, np.zeros((1, 8, 8, 3), np.uint8))) for _ in values]
    for row, value in zip(rows, values):
        row.values = value
    assert cost.seconds_a_clip("long")(rows) == 12
    assert cost.attempts("long")(rows) == 9  # p = 1/4
    assert cost.seconds_a_clip("long")(rows[1:]) is None  # costs more than all attempts
    assert cost.attempts("long")(rows[1:]) is None and cost.seconds_a_clip("control")(rows) is None


def test_where_a_text_was_cut_is_read_from_the_manifest():
    item = next(item for item in read_items(long_prompts.ITEMS) if item.facts["form"] == "long")
    words = item.prompts[0].split()
    manifest = {"text": {"cut_off": {"T5Tokenizer": " ".join(words[-30:]), "CLIPTokenizer": " ".join(words[-20:])}}}
    values = long_prompts.judged(Clip(item, scene_of(item), manifests=(manifest,)))
    assert values["read"] == pytest.approx(1 - 30 / len(words))
    row = row_of((), Clip(item, scene_of(item)))
    row.values = values | {
        check["name"]: float(check["position"] <= values["read"]) for check in item.facts["checks"][:-1]
    }
    assert long_prompts.within_limit([row]) == 1 and long_prompts.beyond_limit([row]) == 0
    assert long_prompts.slope([row]) < -0.5


# Whole runs on folders of files, without a model.


FOLDERS = ("editing", "shots", "watermark", "product", "cost", "long_prompts")


@pytest.mark.parametrize("name", ["image_control", *(pytest.param(name, marks=pytest.mark.full) for name in FOLDERS)])
def test_a_folder_of_clips_gives_a_report(name, tmp_path):
    """One true clip and one that is missing: figures, and `complete: false` that names the missing one."""
    evaluation = registry.find(name)
    first, second = read_items(evaluation.items)[:2]
    videos, prompts = tmp_path / "videos", tmp_path / "items.json"
    videos.mkdir()
    module = {"cost": long_prompts, "product": image_control, "shots": shots, "long_prompts": long_prompts}.get(name)
    shown = truth_of(module, first).shots if module else [drawn(first.facts | {"drawing": 0})]
    for stem, frames in zip(first.stems, shown, strict=True):
        export_to_video(frames, videos / f"{stem}.mp4", 8)
    entries = [{"name": i.name, "prompts": list(i.prompts), "seed": i.seed, "facts": i.facts} for i in (first, second)]
    prompts.write_text(json.dumps({"provenance": "two of the committed ones", "items": entries}))
    command = ["evaluate", name, "--videos", str(videos), "--prompts", str(prompts), "--output", str(tmp_path / "out")]
    assert cli.main([*command, "--device", "CPU"]) == 1
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert not content["complete"] and list(content["unreadable"]) == [second.name]
    assert sum(score["value"] is not None for score in content["scores"].values()) >= 2 or name == "cost"
