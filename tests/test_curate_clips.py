"""Stages of a curation on clips whose faults are known: joins, subtitles, stills, flicker, bars, copies."""

import functools

import curate_clips
import numpy as np
import pytest
from curate_clips import SIZE, covering, joined, shot, subtitled

from mindsora.curate import cuts, hashes, motion, picture, rules
from mindsora.curate.clips import grey, shrunk
from mindsora.curate.settings import Measures, Rules
from mindsora.curate.text_boxes import boxes_of, without_text
from mindsora.errors import InputError

FEW = pytest.param(6, id="few")
FAULTS = ("frozen", "still", "flickering", "shaken", "blackened")


def many(number: int):
    return pytest.param(number, id="many", marks=pytest.mark.slow)


def small(clip: np.ndarray, side: int) -> np.ndarray:
    return np.stack([shrunk(frame, side) for frame in clip])


@pytest.mark.full
@pytest.mark.parametrize("clips", [FEW, many(80)])
def test_cuts_of_joined_shots(clips):
    """F1 of at least 0.95 with cuts at most one frame away."""
    rng, right, found, planted = np.random.default_rng(1), 0, 0, 0
    for _ in range(clips):
        clip, truth = joined(rng)
        places = cuts.by_scenedetect(small(clip, cuts.SIDE))
        right += sum(any(abs(place - cut) <= 1 for place in places) for cut in truth)
        found, planted = found + len(places), planted + len(truth)
    assert 2 * right / (found + planted) >= 0.95, (right, found, planted)


@pytest.mark.slow
def test_transnet_finds_a_join():
    rng = np.random.default_rng(0)
    clip, truth = joined(rng)
    places = cuts.by_transnet(clip)
    assert len(places) == len(truth) and all(abs(place - cut) <= 1 for place, cut in zip(places, truth))


def test_the_papers_rule_places_a_cut_inside_the_sampled_interval(monkeypatch):
    """LPIPS of every fourth frame knows the cut to four frames; the largest step of the luma says which."""
    rng = np.random.default_rng(4)
    clip = np.concatenate([shot(rng, 30)[1], shot(rng, 30)[1][:, ::-1]])
    far = np.abs(np.diff(grey(clip[::4]).astype(float), axis=0)).mean((1, 2)) / 255
    monkeypatch.setattr(cuts, "distances", lambda frames, measures: far * 0.5 / far.max())
    assert cuts.by_lpips(clip, Measures()) == [30]


def test_lpips_needs_its_backbone():
    with pytest.raises(InputError, match="lpips.backbone=FILE"):
        cuts.distances(np.zeros((2, 8, 8, 3), np.uint8), Measures())


def steps_of(clip: np.ndarray) -> list[str]:
    """The steps that drop the clip as it is, without the ones before; and "bars" where it has some."""
    luma = grey(small(clip, picture.SIDE))
    height, width = clip.shape[1:3]
    value = {
        "black": picture.black_frames(luma).mean(),
        "frozen": picture.frozen_share(luma, 25),
        "flicker": picture.flicker(luma),
        "box": picture.scaled(picture.bars(luma), luma.shape[1:], (height, width)),
    }
    moved = {"value": float(motion.flow(small(clip[::4], motion.FLOW_SIDE)).mean()), "judge": "flow farneback"}
    scores = {"motion": moved, "picture": {"value": value}}
    record = {"num_frames": len(clip), "resolution": {"height": height, "width": width}, "scores": scores}
    names = [step.name for step in rules.STEPS if step.stage in scores and step.reason(record, Rules())]
    return names + (["bars"] if value["box"] else [])


@pytest.mark.full
@pytest.mark.parametrize("clips", [FEW, many(50)])
def test_faulty_clips_are_dropped_and_clean_ones_kept(clips):
    """At least 95 % right, of 5 kinds of faults, clean clips and barred ones; 50 of each are 350 cases."""
    rng, wrong = np.random.default_rng(2), []
    drops = {
        "frozen": {"frozen"},
        "still": {"motion", "frozen"},
        "flickering": {"flicker"},
        "shaken": {"flicker", "motion"},
        "blackened": {"black"},
    }
    for _ in range(clips):
        _, clip = shot(rng, 40)
        wrong += [f"clean: {steps}"] if (steps := steps_of(clip)) else []
        for kind in FAULTS:
            steps = steps_of(getattr(curate_clips, kind)(rng, clip))
            wrong += [] if drops[kind] & set(steps) else [f"{kind}: {steps}"]
        barred, rows = curate_clips.barred(rng, clip)
        luma = grey(small(barred, picture.SIDE))
        box = picture.scaled(picture.bars(luma), luma.shape[1:], SIZE)
        # A row of the small picture is 2 of the clip; up to 2 more go with the bar.
        inside = box and box[:2] == (0, SIZE[1]) and 0 <= box[2] - rows[0] <= 4 and 0 <= rows[1] - box[3] <= 4
        wrong += [] if inside else [f"barred at {rows}: {box}"]
    assert len(wrong) <= 0.05 * 7 * clips, wrong


COPIES = {
    "JPEG of quality 10": functools.partial(curate_clips.compressed, quality=10),
    "half as large": functools.partial(curate_clips.rescaled, factor=0.5),
    "cropped by 5 %": functools.partial(curate_clips.cropped, share=0.05),
    "mirrored": lambda clip: clip[:, :, ::-1],
    "brighter": lambda clip: np.clip(clip * 1.2, 0, 255).astype(np.uint8),
}


def hashed(clip: np.ndarray) -> dict:
    pictures = grey(small(clip, hashes.SIDE))
    return {
        "plain": [hashes.as_hex(one) for one in pictures],
        "mirrored": [hashes.as_hex(one[:, ::-1]) for one in pictures],
    }


@pytest.mark.full
@pytest.mark.parametrize("clips", [FEW, many(50)])
def test_copies_are_duplicates_and_other_shots_are_not(clips):
    """At least 95 % of the copies are found; of those cropped by 5 %, whose hashes change most, at least 80 %."""
    rng, distance = np.random.default_rng(3), Rules().duplicates.distance
    found = dict.fromkeys(COPIES, 0)
    for _ in range(clips):
        clip = shot(rng, 40)[1][::8][: hashes.FRAMES]
        for name, change in COPIES.items():
            found[name] += bool(hashes.duplicates([hashed(clip), hashed(change(clip))], distance))
    assert sum(found.values()) >= 0.95 * len(COPIES) * clips and min(found.values()) >= 0.8 * clips, found
    others = [clip[[0, 9, 18, 27, 36]] for clip in curate_clips.shots()]
    assert not hashes.duplicates(map(hashed, others), distance)


@pytest.mark.full
@pytest.mark.parametrize("clips", [pytest.param(4, id="few"), many(50)])
def test_subtitles_are_cropped_and_clean_clips_are_not(clips):
    """The whole line goes in at least 95 % of the clips; at most 2 % of the clean ones are cropped."""
    rng, frame, right, false = np.random.default_rng(5), (0, 640, 0, 360), 0, 0
    for _ in range(clips):
        clip = covering(shot(rng, 30)[1][[0, -1]], 360, 640)
        clean = without_text([box for boxes in boxes_of(clip, 0.5) for box in boxes], frame, 0.2)
        false += clean != frame
        marked, top = subtitled(rng, clip)
        left, right_side, upper, lower = without_text(
            [box for boxes in boxes_of(marked, 0.5) for box in boxes], frame, 0.2
        )
        # 3 rows: the detector's box follows the letters, the outline and descenders reach a little further
        right += (left, right_side, upper) == (0, 640, 0) and lower <= top + 3
    assert right >= 0.95 * clips and false <= 0.02 * clips, (right, false)
