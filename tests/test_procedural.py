"""Procedural clips depend on their number alone, are balanced, and exclude held-out combinations from training."""

import re
from collections import Counter
from itertools import combinations as pairs_of
from pathlib import Path

import numpy as np
import pytest

from mindsora.data.toy.captions import BACKDROP, STYLES, caption
from mindsora.data.toy.procedural import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    Thing,
    clip,
    combinations,
    draw,
    render,
)
from mindsora.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def drawn():
    """The contents of 6000 training clips, without their pixels."""
    return [draw(np.random.RandomState([index, 0])) for index in range(6000)]


def test_a_clip_is_fixed_by_its_number():
    video, text, attributes = clip(11)
    for other in (3, 12):
        clip(other)
    again = clip(11)
    np.testing.assert_array_equal(video, again[0])
    assert (text, attributes) == again[1:]
    assert video.shape == (17, 64, 64, 3) and video.dtype == np.uint8
    # These are frozen to detect a change of generator or of NumPy: weights were trained on these clips.
    assert text == "a blue square falling" and abs(video.mean() - 126.2832) < 0.01
    assert (video != clip(12)[0]).any() and (video != clip(11, "heldout")[0]).any()


def test_held_out_combinations_never_occur_in_training(drawn):
    seen = {thing for clip in drawn for thing in clip.things}
    assert len(HELD_OUT) == 24 and not seen & HELD_OUT
    assert seen == set(combinations("train"))  # and all others occur
    assert {draw(np.random.RandomState([index, 1]), "heldout").things[0] for index in range(600)} == HELD_OUT


def test_every_pair_of_attributes_occurs_in_training():
    def pairs(things):
        fields = [(t.shape, t.colour, t.motion) for t in things]
        return Counter(pair for values in fields for pair in pairs_of(values, 2))

    training = pairs(combinations("train"))
    assert all(training[pair] >= 2 for pair in pairs(HELD_OUT))
    assert len(training) == 4 * 6 + 4 * 8 - 1 + 6 * 8  # but for rotating circles


def test_attributes_are_balanced(drawn):
    single = [clip.things[0] for clip in drawn if len(clip.things) == 1]
    assert abs(len(single) / len(drawn) - 0.85) < 0.02
    # Three standard deviations of a share of 1/4 among 5100 draws are 0.018. Circles never rotate: 7/8 as often.
    for values, name in ((SHAPES, "shape"), (tuple(COLOURS), "colour"), (MOTIONS, "motion")):
        counts = Counter(getattr(thing, name) for thing in single)
        for value in values:
            assert abs(counts[value] / len(single) - 1 / len(values)) < 0.045, (value, counts)
    backgrounds = Counter(clip.background for clip in drawn)
    assert min(backgrounds[name] for name in BACKGROUNDS) > 0.22 * len(drawn)


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_differ_in_every_group_of_latent_frames(motion):
    """Frames 0 | 1-8 | 9-16: a moving object is elsewhere in each; a still one is not."""
    rng = np.random.RandomState(0)
    for _ in range(10):
        thing = Thing("square", "red", motion)
        cover = (render((thing,), "black", rng)[..., 0] / 225.0).clip(0, 1)  # (17, 64, 64)
        area = cover.sum((1, 2))
        grid = np.arange(64) + 0.5
        centre = np.stack([cover.sum(1) @ grid, cover.sum(2) @ grid], 1) / area[:, None]  # (17, 2): x, y
        steps = centre[[8, 16]] - centre[[0, 8]]
        if motion in DIRECTIONS:
            np.testing.assert_allclose(steps @ DIRECTIONS[motion], 14.5, atol=2)  # half of 26 to 32
            assert ((centre[0] - 32) @ DIRECTIONS[motion]) < -8.5  # without still objects
        else:
            np.testing.assert_allclose(steps, 0, atol=0.1)
        growth = np.sqrt(area[[8, 16]] / area[[0, 8]])
        if motion == "growing":
            assert (growth > 1.25).all()
        elif motion == "shrinking":
            assert (growth < 0.8).all()
        else:
            np.testing.assert_allclose(growth, 1, atol=0.02)
        # The corners of a square show rotation: after 45 degrees, about frame 8, it stands on one of them.
        changed = np.abs(cover[8] - cover[0]).sum() / area[0]
        assert changed > 0.2 if motion == "rotating" else (motion != "still" or changed == 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_stay_in_view_and_scale_with_the_size(shape):
    rng = np.random.RandomState(1)
    for motion in MOTIONS[:-1]:
        thing, state = Thing(shape, "cyan", motion), rng.get_state()
        small = render((thing,), "black", rng).astype(np.float64)
        border = np.concatenate([small[:, [0, -1]].ravel(), small[:, :, [0, -1]].ravel()])
        assert border.max() < 160  # at most the soft edge of an object that touches the border
        rng.set_state(state)
        large = render((thing,), "black", rng, size=128, frames=9).astype(np.float64)
        assert large.shape == (9, 128, 128, 3)
        # The same tracks at twice the size; every second frame of 17 is one of 9.
        halved = large.reshape(9, 64, 2, 64, 2, 3).mean((2, 4))
        assert np.abs(halved - small[::2]).mean() < 1.5


def test_two_objects_keep_to_their_halves(drawn):
    pairs = [index for index, clip in enumerate(drawn[:400]) if len(clip.things) == 2]
    assert len(pairs) > 30
    for index in pairs[:30]:
        video, _, shown = clip(index)
        assert shown == drawn[index] and shown.things[0].colour != shown.things[1].colour
        chroma = np.ptp(video.astype(int), axis=-1).max(0)  # (H, W)
        middle = chroma[:, 31:33] if shown.places[0] == "left" else chroma[31:33]
        assert middle.max() < 200 and np.median(middle) == 0
        halves = (chroma[:, :32], chroma[:, 32:]) if shown.places[0] == "left" else (chroma[:32], chroma[32:])
        assert all(half.max() > 100 for half in halves)


def test_captions_name_what_is_shown(drawn):
    for shown in drawn[:1000]:
        words = re.findall(r"\w+", shown.caption.lower())
        for thing, place in zip(shown.things, shown.places):
            assert thing.colour in words and thing.shape in words and (not place or place in words)
        for name, phrase in BACKDROP.items():
            assert (phrase in shown.caption) <= (name == shown.background)


def test_motion_wordings_are_unambiguous():
    """No sentence of one motion is also one of another, and every style has its own form."""
    sentences = {}
    for motion in MOTIONS:
        for style in STYLES:
            for seed in range(60):
                text = caption((Thing("square", "red", motion),), "black", np.random.RandomState(seed), style=style)
                assert sentences.setdefault(text, motion) == motion
                assert text.endswith(".") == (style == "long") and ("red, square" in text) == (style == "tags")
    assert len(sentences) > 100


def test_captions_fit_the_nano_tokenisers(drawn):
    """At most 32 tokens, start and end included, no unknown piece; every word is one token."""
    import sentencepiece

    from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer

    weights = ROOT / "mindsora/weights/nano"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(weights / "tokenizer/spiece.model"))
    assert [pieces.id_to_piece(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    texts = sorted({shown.caption.lower() for shown in drawn})
    ids = pieces.encode(texts)
    assert max(map(len, ids)) + 1 <= 32 and not any(2 in row for row in ids)
    assert all(len(row) == len(re.findall(r"\w+|[.,]", text)) for row, text in zip(ids, texts))
    ids32, mask = T5Tokenizer.from_folder(weights / "tokenizer", max_length=32)(texts)
    assert [list(row[:n]) for row, n in zip(ids32, mask.sum(1))] == [row + [1] for row in ids]
    assert 2 not in pieces.encode("Any English text: 7 quick foxes & a dog's (jump)!")
    _, mask = CLIPTokenizer.from_folder(weights / "tokenizer_2", max_length=77)(texts)
    assert mask.sum(1).max() <= 32
    assert all(int(row.sum()) == len(re.findall(r"\w+|[.,]", text)) + 2 for row, text in zip(mask, texts))


def test_tokenisers_are_reproducible(tmp_path):
    """The recipe reproduces the committed files byte for byte."""
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, ROOT / "recipes/nano/make_tokenizers.py", tmp_path],
        cwd=ROOT,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 6
    for path in written:
        assert (tmp_path / path).read_bytes() == (ROOT / "mindsora/weights/nano" / path).read_bytes(), path


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Thing("circle", "red", "rotating"), "circle"),
        (lambda: Thing("star", "red", "left"), "star"),
        (lambda: clip(0, "test"), "heldout"),
        (lambda: clip(-1), "numbered from 0"),
        (lambda: clip(0, size=8), "size of at least 16"),
        (lambda: render((Thing("square", "red", "left"),), "pink", np.random.RandomState(0)), "pink"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
