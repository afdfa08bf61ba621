"""The detector of marks: recall and false alarms on synthetic overlays, and what gives no evidence."""

import cv2
import numpy as np
import pytest

from mindsora.data.toy.procedural import Thing, clip, render
from mindsora.evaluate import words
from mindsora.evaluate.marks import PLACES, marks, overlaid
from mindsora.evaluate.watermark import carries_mark


def moving(seed=0):
    return render((Thing("circle", "red", "left"),), "gray", np.random.RandomState(seed))


def demo(video, place="corner"):
    return overlaid(video, "demo", place, 0.6, np.random.RandomState(0))


@pytest.mark.parametrize("count", [24, pytest.param(300, marks=pytest.mark.full)])
def test_calibration(count):
    """At least 95 % of synthetic marks, at most 2 % false alarms; nearly all moving clips can be judged."""
    clean, marked = [], []
    for number in range(count):
        video, rng = clip(number)[0], np.random.RandomState(number)
        seen = carries_mark(video)
        if seen is not None:
            clean.append(seen)
            place, opacity = PLACES[number % 3], rng.uniform(0.35, 0.8)
            marked.append(bool(carries_mark(overlaid(video, "preview", place, opacity, rng))))
    assert len(clean) >= 0.85 * count  # an eighth of the clips stand still
    assert np.mean(clean) <= 0.02 and np.mean(marked) >= 0.95


@pytest.mark.parametrize("place", PLACES)
def test_a_mark_is_found_where_it_is(place):
    clean, marked = moving(), demo(moving(), place)
    box = marks(marked).boxes
    changed = np.argwhere((clean != marked).any((0, 3)))
    assert box and not marks(clean).boxes
    for top, left, bottom, right in box:
        inside = (changed >= (top - 2, left - 2)) & (changed < (bottom + 2, right + 2))
        assert inside.all(1).sum() >= 0.5 * (bottom - top) * (right - left)


def test_what_stands_still_gives_no_evidence():
    still = np.repeat(moving()[:1], 17, axis=0)
    assert carries_mark(still) is None and carries_mark(demo(still)) is None


def test_texture_gives_no_evidence():
    leaves = cv2.resize(np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8), (64, 64))
    assert (
        carries_mark(np.where(np.abs(moving().astype(int) - 128).max(-1, keepdims=True) > 20, moving(), leaves)) is None
    )


def test_a_mark_that_flashes_is_none():
    """Seen in half of the frames, where 80 % are asked for."""
    video = moving()
    video[::2] = demo(video)[::2]
    assert not marks(video).boxes


def test_large_frames_need_the_reader(monkeypatch):
    large = np.stack([cv2.resize(frame, (128, 128)) for frame in moving()])
    monkeypatch.setattr(words, "installed", lambda: False)
    assert carries_mark(large) is None


@pytest.mark.parametrize(
    "lines, word",
    [(["shutterst0ck"], "shutterstock"), (["adobe stock 2024"], "adobestock"), (["stop"], None), ([], None)],
)
def test_stock_words_allow_one_misread_letter(monkeypatch, lines, word):
    monkeypatch.setattr(words, "read", lambda picture: lines)
    seen = words.stock_words(np.zeros((3, 8, 8, 3), np.uint8))
    assert word in seen if word else not seen


@pytest.mark.full
def test_words_are_read_from_a_textured_scene():
    leaves = cv2.resize(np.random.RandomState(0).randint(60, 200, (24, 24, 3), np.uint8), (256, 256))
    scene = np.stack([cv2.circle(leaves.copy(), (30 + 12 * t, 60), 25, (200, 40, 40), -1) for t in range(17)])
    assert carries_mark(scene) is False
    assert carries_mark(overlaid(scene, "preview", "centre", 0.7, np.random.RandomState(0))) is True
