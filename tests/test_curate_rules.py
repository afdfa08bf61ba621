"""Decisions of a curation against the numbers of arXiv 2412.00131, section 4, and their bookkeeping."""

import json
import random

import numpy as np
import pytest
from curate_records import lines, score, scored, write_curation

from mindsora.cli import main
from mindsora.curate import cuts, hashes, rules
from mindsora.curate.captions import stripped
from mindsora.curate.curation import decide_again, opened
from mindsora.curate.decide import decide
from mindsora.curate.picture import bars, black_frames, flicker, frozen_share, scaled
from mindsora.curate.settings import Measures, Rules, changed
from mindsora.curate.spans import divided
from mindsora.curate.stages import SCORES, Plan, key_of
from mindsora.curate.text_boxes import without_text
from mindsora.data.annotations import clip_of, read_records

FRAME = (0, 1280, 0, 720)


def spiked(values: dict[int, float], floor: float = 0.01, length: int = 60) -> list[float]:
    return [values.get(i, floor + 0.001 * (i % 2)) for i in range(length)]


@pytest.mark.parametrize(
    "values, places",
    [
        ([], []),
        ([0.4] * 10, []),  # no spread: a clip that changes all the time has no cut
        (spiked({}), []),
        (spiked({20: 0.36}), [20]),  # above 0.35
        (spiked({20: 0.21}), [20]),  # z is far above 3.2, and LPIPS above 0.2
        (spiked({20: 0.19}), []),  # z alone is not enough
        (spiked({20: 0.5, 41: 0.6}), [20, 41]),
        ([0.3, 0.4] * 20, []),  # above 0.35, and z is 1
        ([0.1, 0.3] * 30 + [0.4], []),  # above 0.35, and z is 1.9
        ([0.1, 0.3] * 30 + [0.45], [60]),  # z is 2.3
    ],
)
def test_the_papers_rule_of_cuts(values, places):
    assert cuts.accepted(values) == places


def test_z_must_exceed_its_bounds():
    """Of n equal values and one larger, the larger has z = sqrt(n) exactly: 2 at n = 4."""
    assert cuts.accepted([0.1] * 4 + [0.9]) == [] and cuts.accepted([0.1] * 5 + [0.9]) == [5]
    assert cuts.accepted([0.1] * 10 + [0.3]) == [] and cuts.accepted([0.1] * 11 + [0.3]) == [11]  # z = 3.16, 3.32


@pytest.mark.parametrize(
    "last, pieces",
    [(512, [(0, 512)]), (513, [(0, 256), (256, 513)]), (1100, [(0, 366), (366, 733), (733, 1100)]), (1, [(0, 1)])],
)
def test_long_parts_are_divided_evenly(last, pieces):
    assert divided(0, last, 512) == pieces


@pytest.mark.parametrize(
    "changes, step",
    [
        ({}, None),
        ({"num_frames": 31}, "length"),
        ({"num_frames": 32}, None),
        ({"motion": score(0.0009, "lpips vgg16")}, "motion"),
        ({"motion": score(0.001, "lpips vgg16")}, None),
        ({"motion": score(0.3, "lpips vgg16")}, None),
        ({"motion": score(0.30001, "lpips vgg16")}, "motion"),
        ({"motion": score(0.0004, "flow farneback")}, "motion"),
        ({"motion": score(0.0005, "flow farneback")}, None),
        ({"aesthetic": score(4.75)}, None),
        ({"aesthetic": score(4.7499)}, "aesthetic"),
        ({"technical": score(0.0)}, "technical"),
        ({"technical": score(1e-9)}, None),
        ({"recheck": score(0.0005, "lpips vgg16")}, "recheck"),
        ({"watermark": score(0.51)}, "watermark"),
        ({"unsafe": score(0.9)}, "unsafe"),
        ({"captions": score([])}, "caption"),
        ({"picture": score({"black": 0.2, "frozen": 0.0, "flicker": 0.0, "box": None})}, "black"),
        ({"picture": score({"black": 0.0, "frozen": 0.5, "flicker": 0.0, "box": None})}, "frozen"),
        ({"picture": score({"black": 0.0, "frozen": 0.0, "flicker": 3.0, "box": None})}, "flicker"),
        ({"motion": {"failed": "it ends early"}}, "unreadable"),
    ],
)
def test_thresholds(changes, step):
    last = rules.dropped(scored(**changes), Rules(), {})
    assert (last and last.step) == step


def test_steps_come_in_the_papers_order_and_the_first_drop_ends_them():
    steps = [one.step for one in rules.walk(scored(), Rules(), {})]
    paper = ["length", "motion", "text", "aesthetic", "technical", "recheck"]
    assert [step for step in steps if step in paper] == paper
    record = scored(aesthetic=score(1.0), technical=score(-1.0))
    assert [one.step for one in rules.walk(record, Rules(), {})][-1] == "aesthetic"


def test_a_stage_without_judge_takes_no_decision_and_is_named(tmp_path):
    plan = Plan("media", str(tmp_path))
    assert set(plan.skipped) == {"aesthetic", "technical", "watermark", "unsafe", "captions"}
    record = scored()
    for stage in plan.skipped:
        del record["scores"][stage]
    assert rules.dropped(record, Rules(), plan.skipped) is None
    assert rules.dropped(record, Rules(), {}).step == "unscored"


def test_only_clips_that_stay_so_far_are_scored():
    still = scored(motion=score(0.0, "lpips vgg16"))
    assert rules.dropped(still, Rules(), {}, "motion") is None
    assert rules.dropped(still, Rules(), {}, "picture").step == "motion"


@pytest.mark.parametrize(
    "boxes, frame",
    [
        ([], FRAME),
        ([[300, 900, 600, 660]], (0, 1280, 0, 600)),  # a subtitle
        ([[300, 900, 600, 660], [200, 1000, 580, 640]], (0, 1280, 0, 580)),  # the innermost of two
        ([[300, 900, 570, 660]], FRAME),  # begins above the band of 144 pixels
        ([[300, 900, 576, 720]], (0, 1280, 0, 576)),  # fills the band: the largest crop
        ([[300, 900, 10, 60]], (0, 1280, 60, 720)),
        ([[0, 200, 200, 400]], (200, 1280, 0, 720)),
        ([[1100, 1280, 200, 400]], (0, 1100, 0, 720)),
        ([[1100, 1280, 10, 60]], (0, 1280, 60, 720)),  # a corner belongs to the top
        ([[300, 900, 300, 400]], FRAME),  # a sign in the middle stays
        ([[0, 256, 150, 570], [1024, 1280, 150, 570], [0, 1280, 0, 144], [0, 1280, 576, 720]], (256, 1024, 144, 576)),
    ],
)
def test_text_is_cropped_in_the_outer_bands_alone(boxes, frame):
    assert without_text(boxes, FRAME, 0.2) == frame


def test_at_worst_36_per_cent_of_a_frame_remain():
    left, right, top, bottom = without_text(
        [[0, 256, 150, 570], [1024, 1280, 150, 570], [0, 1280, 0, 144], [0, 1280, 576, 720]], FRAME, 0.2
    )
    assert (right - left) * (bottom - top) == pytest.approx(0.36 * 1280 * 720)


def test_bars_and_text_crop_together():
    picture = score({"black": 0.0, "frozen": 0.0, "flicker": 0.0, "box": [0, 1280, 90, 630]})
    text = score({"frames": [0], "boxes": [[[300, 900, 540, 600]]]}, crop=[0, 1280, 90, 630])
    record = scored(picture=picture, text=text)
    assert rules.crop_of(record, Rules(), "picture") == (0, 1280, 90, 630)
    assert rules.crop_of(record, Rules(), "text") == (0, 1280, 90, 540)


def test_scores_of_another_crop_do_not_count():
    text = score({"frames": [0], "boxes": [[[300, 900, 600, 660]]]})
    record = scored(text=text)
    assert rules.dropped(record, Rules(), {}).step == "unscored"
    cropped = {stage.name: record["scores"][stage.name] | {"crop": [0, 1280, 0, 600]} for stage in SCORES[3:]}
    assert rules.dropped(record | {"scores": record["scores"] | cropped}, Rules(), {}) is None


@pytest.mark.parametrize(
    "caption, rest",
    [
        ("The video is a tour of a garden.", "A tour of a garden."),
        ("The video depicts two dogs.", "Two dogs."),
        ("The video begins with a car.", "A car."),
        ("The video begins inside a hall.", "A hall."),
        ("The video opens on the sea.", "The sea."),
        ("The video appears to focus closely on a leaf.", "A leaf."),
        ("The video consists of clouds.", "Clouds."),
        ("In the video, a man runs.", "A man runs."),
        ("the video is small", "The video is small"),  # exact case
        ("The video isn't sharp.", "The video isn't sharp."),
        ("A dog. The video is short.", "A dog. The video is short."),
        ("The video shows The video is new.", "The video is new."),  # once
        ("The video shows", ""),
        ("In the video, ", ""),
        ("", ""),
    ],
)
def test_prefixes_of_captions(caption, rest):
    assert stripped(caption) == rest


def test_near_duplicates():
    rng = random.Random(0)
    values = [[rng.getrandbits(64) for _ in range(5)] for _ in range(50)]

    def clip(bits, mirrored=()):
        return {"plain": [f"{one:016x}" for one in bits], "mirrored": [f"{one:016x}" for one in mirrored or bits]}

    near = [one ^ sum(1 << bit for bit in rng.sample(range(64), 6)) for one in values[7]]
    far = [one ^ sum(1 << bit for bit in rng.sample(range(64), 7)) for one in values[8]]
    flipped = clip([rng.getrandbits(64) for _ in range(5)], values[9])
    clips = [clip(one) for one in values] + [clip(near), clip(far), flipped, clip(near)]
    assert hashes.duplicates(clips, 6) == {50: 7, 52: 9, 53: 7}
    assert hashes.duplicates([clip(values[0]), clip(values[0])], 0) == {1: 0}
    assert hashes.duplicates([clip([0] * 5), clip([0] * 5)], 6) == {}  # flat pictures say nothing
    assert hashes.duplicates([], 6) == {}
    many = [clip([rng.getrandbits(64) for _ in range(5)]) for _ in range(1500)]
    assert hashes.duplicates(many + many, 6) == {1500 + i: i for i in range(1500)}


def test_pictures_in_numbers():
    rng = np.random.default_rng(0)
    clip = rng.integers(40, 220, (50, 72, 128)).astype(np.uint8)
    assert not black_frames(clip).any() and black_frames(np.zeros_like(clip)).all()
    assert frozen_share(clip, 25) == 0 and frozen_share(np.repeat(clip[:1], 50, 0), 25) == 1
    stop = np.concatenate([clip[:20], np.repeat(clip[19:20], 30, 0)])
    assert frozen_share(stop, 25) == pytest.approx(31 / 50)
    assert frozen_share(np.repeat(clip[:25], 2, 0), 25) == 0  # 12 frames a second in a film of 25
    smooth = np.full((50, 72, 128), 100, np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None]
    assert flicker(smooth) == 0  # a fade
    smooth[::2] += 10
    assert flicker(smooth) == pytest.approx(10, abs=1.1)  # the fade moves by 1
    clip[:, :9] = clip[:, -9:] = 16
    assert bars(clip) == (0, 128, 9, 63) and bars(np.zeros_like(clip)) is None
    assert scaled((0, 128, 9, 63), (72, 128), (720, 1280)) == (0, 1280, 100, 620)
    assert scaled((3, 128, 0, 72), (72, 128), (723, 1285)) == (41, 1285, 0, 723)  # inwards: 40.2 becomes 41


def test_settings_are_named(capsys):
    measures, new = changed(Measures(), Rules(), ["motion.max=0.25", "slice.seconds=8", "licence.required=true"])
    assert new.motion.max == 0.25 and measures.slice.seconds == 8 and new.licence.required
    for wrong, words in [
        ("motion.maximum=1", "no such setting; known: aesthetic.min"),
        ("motion.max", "write section.key=value"),
        ("text.limit=0.6", "nearest legal: 0.45"),
        ("cuts.judge=eye", "must be one of scenedetect, transnetv2, lpips"),
        ("motion.max=high", "must be of type"),
    ]:
        assert main(["curate", "run", "media", "--output", "out", "--set", wrong]) == 2
        assert words in capsys.readouterr().err


def test_a_key_of_results_holds_what_they_depend_on(tmp_path):
    def keys(*assignments):
        measures, new = changed(Measures(), Rules(), assignments)
        plan = Plan("media", str(tmp_path), measures, new)
        return {stage.name: key_of(stage, plan) for stage in SCORES if stage.name in ("motion", "picture", "text")}

    plain = keys()
    assert keys("motion.max=0.2", "text.limit=0.1") == plain
    assert {name for name, key in keys("motion.skip=2").items() if key != plain[name]} == {"motion"}
    assert {name for name, key in keys("cuts.skip=2").items() if key != plain[name]} == set(plain)


def test_deciding_writes_annotations_and_the_reason_of_every_drop(tmp_path):
    text = score({"frames": [0], "boxes": [[[300, 900, 600, 660]]]})
    crop = [0, 1280, 0, 600]
    good = scored("good.mp4:0-100")
    good["scores"] |= {stage.name: good["scores"][stage.name] | {"crop": crop} for stage in SCORES[3:]} | {"text": text}
    other = score({"plain": ["ffff0000ffff0000"] * 5, "mirrored": ["0000ffff0000ffff"] * 5})
    records = [
        good,
        scored("same.mp4:0-100"),
        scored("still.mp4:0-100", motion=score(0.0, "lpips vgg16"), hashes=other),
        {"id": "bad\n.mp4", "path": "bad\n.mp4", "failed": {"stage": "probe", "message": "no video"}, "scores": {}},
    ]
    funnel = decide(write_curation(tmp_path, records))
    (kept,) = read_records(tmp_path / "annotations.jsonl")
    assert kept["path"] == "good.mp4" and kept["cut"] == [0, 100] and kept["crop"] == crop
    (table,) = read_records(tmp_path / "annotations.parquet")
    for row in (kept, table):
        clip = clip_of(row, tmp_path)
        assert clip.captions == ("A fox.",) and clip.seen == (600, 1280) and clip.aesthetic == 5.0
    reasons = {row["path"]: (row["step"], row["reason"]) for row in lines(tmp_path / "dropped.jsonl")}
    assert reasons["same.mp4"] == ("duplicate", "repeats good.mp4:0-100")
    assert reasons["still.mp4"] == ("motion", "motion 0.00000 is below 0.001: a still")
    assert reasons["bad\n.mp4"] == ("unreadable", "no video")
    assert len(list(read_records(tmp_path / "dropped.parquet"))) == 3
    counts = {row["step"]: (row["dropped"], row["kept"]) for row in funnel["steps"]}
    assert counts["unreadable"] == (1, 3) and counts["motion"] == (1, 2) and counts["duplicate"] == (1, 1)
    assert funnel == json.loads((tmp_path / "funnel.json").read_text()) and funnel["cropped"] == {"bars": 0, "text": 1}


def test_deciding_again_changes_rules_alone(tmp_path, capsys):
    hash_of = [score({"plain": [f"{bits}" * 16] * 5, "mirrored": ["5" * 16] * 5}) for bits in "03f"]
    records = [
        scored(f"{i + 1}.mp4:0-100", motion=score(value, "lpips vgg16"), hashes=hash_of[i])
        for i, value in enumerate((0.1, 0.2, 0.3))
    ]
    first = decide(write_curation(tmp_path, records))
    assert first["steps"][-1]["kept"] == 3
    assert main(["curate", "decide", str(tmp_path), "--set", "motion.max=0.25"]) == 0
    assert [row["path"] for row in lines(tmp_path / "annotations.jsonl")] == ["1.mp4", "2.mp4"]
    assert opened(tmp_path).rules.motion.max == 0.25
    capsys.readouterr()
    assert main(["curate", "sample", str(tmp_path), "--reason", "motion"]) == 0
    assert capsys.readouterr().out == "3.mp4:0-100: motion 0.3000 is above 0.25\n"
    decide_again(tmp_path, ["motion.max=0.3"])
    once = {
        name: (tmp_path / name).read_bytes() for name in ("annotations.jsonl", "annotations.parquet", "funnel.json")
    }
    decide_again(tmp_path)
    assert once == {name: (tmp_path / name).read_bytes() for name in once}
    for wrong, words in [
        (
            ["decide", str(tmp_path), "--set", "slice.seconds=8"],
            "this changes scores; give it to `mindsora curate run`",
        ),
        (["decide", str(tmp_path / "none")], "holds no curation"),
        (["sample", str(tmp_path), "--reason", "colour"], "must be one of kept, unreadable"),
        (["sample", str(tmp_path), "--reason", "black"], "no clip has it"),
        (["run", str(tmp_path / "none"), "--output", str(tmp_path / "new")], "is no folder"),
        (["run", str(tmp_path)], "--output OUT"),
    ]:
        assert main(["curate", *wrong]) == 2
        assert words in capsys.readouterr().err
