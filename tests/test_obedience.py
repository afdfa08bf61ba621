"""The measurement is correct on clips of known content, and at chance level with shuffled prompts."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import fft, ndimage

import mindsora
from mindsora import cli
from mindsora.data.toy.procedural import HELD_OUT, Thing, clip, combinations, render
from mindsora.errors import InputError
from mindsora.evaluate import report
from mindsora.evaluate.measure import measure
from mindsora.evaluate.obedience import ATTRIBUTES, frozen_prompts, read_prompts, score


def blurred(video):
    return ndimage.gaussian_filter(video.astype(np.float32), (0.7, 1.5, 1.5, 0)).astype(np.uint8)


def noisy(video):
    return (video + np.random.RandomState(0).normal(0, 12, video.shape)).clip(0, 255).astype(np.uint8)


def pale(video):
    """60 % of the saturation and a greenish tint, blurred and noisy: worse than the autoencoder's errors."""
    video = blurred(video).astype(np.float32)
    gray = video.mean(-1, keepdims=True)
    return noisy(((gray + 0.6 * (video - gray)) * [0.95, 1.03, 0.95] + [8, -5, 5]).clip(0, 255).astype(np.uint8))


def compressed(video):
    """Keep the 500 largest of 208,896 cosine coefficients: 31 dB, with ringing and smearing in time."""
    spectrum = fft.dctn(video.astype(np.float32), axes=(0, 1, 2), norm="ortho")
    spectrum[np.abs(spectrum) < np.sort(np.abs(spectrum).ravel())[-500]] = 0
    return fft.idctn(spectrum, axes=(0, 1, 2), norm="ortho").clip(0, 255).astype(np.uint8)


def single(split, count):
    """Return the first clips with one object: videos and their contents."""
    shown = []
    index = 0
    while len(shown) < count:
        video, _, attributes = clip(index, split)
        if len(attributes.things) == 1:
            shown.append((video, vars(attributes.things[0])))
        index += 1
    return zip(*shown)


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.full), "heldout"])
@pytest.mark.parametrize("spoil", [np.asarray, blurred, noisy, pale, compressed])
def test_right_on_ground_truth(split, spoil):
    videos, shown = single(split, 64)
    shares = score(shown, [measure(spoil(video)) for video in videos])
    assert min(shares.values()) >= 0.99, shares


def test_chance_on_shuffled_prompts():
    videos, shown = single("heldout", 240)
    measured = [measure(video) for video in videos]
    order = np.random.RandomState(0).permutation(len(shown))
    shares = score([shown[i] for i in order], measured)
    for name in ATTRIBUTES:
        counts = Counter(things[name] for things in shown)
        chance = sum((count / len(shown)) ** 2 for count in counts.values())
        assert abs(shares[name] - chance) < 4 * (chance * (1 - chance) / len(shown)) ** 0.5, (name, shares, chance)


def test_every_combination_is_told_apart():
    rng = np.random.RandomState(3)
    for thing in combinations("train") + combinations("heldout"):
        seen = measure(render((thing,), "gradient", rng) / np.float32(255))
        assert (seen.shape, seen.colour, seen.motion) == (thing.shape, thing.colour, thing.motion)


def test_tracks_are_in_pixels_of_the_data():
    thing = Thing("triangle", "green", "rotating")
    for size in (64, 96):
        track = measure(render((thing,), "white", np.random.RandomState(0), size=size)).track
        assert np.hypot(*track["travel"]) < 0.5 and abs(track["growth"]) < 0.5 and 80 <= track["turn_degrees"] <= 100


def test_nothing_to_see_is_not_an_answer():
    gray = np.full((17, 64, 64, 3), 128, np.uint8)
    for video in (gray, noisy(gray)):
        seen = measure(video)
        assert (seen.shape, seen.colour, seen.motion) == (None, None, None)


def test_prompts_are_the_frozen_ones():
    content = read_prompts()
    assert content == frozen_prompts()
    prompts = content["prompts"]
    assert len(prompts) == 64 and set(content["thresholds"].values()) == {0.9}
    assert {Thing(*(entry[name] for name in ATTRIBUTES)) for entry in prompts} == HELD_OUT
    assert set(Counter(entry["motion"] for entry in prompts).values()) == {8}
    assert len({entry["seed"] for entry in prompts}) == 64


class Perfect:
    """A pipeline that draws the contents of the prompt file; every eighth clip is red."""

    def __init__(self, prompts):
        self.asked = {entry["seed"]: entry for entry in prompts}

    def set_progress_bar_config(self, disable):
        assert disable

    def __call__(self, prompt, seed, **settings):
        entry = self.asked[seed]
        assert entry["prompt"] == prompt and settings == {"num_inference_steps": 3}
        thing = Thing(entry["shape"], "red" if seed % 8 == 0 else entry["colour"], entry["motion"])
        return SimpleNamespace(frames=render((thing,), "gray", np.random.RandomState(seed))[None] / np.float32(255))


def test_command_writes_results_and_contact_sheet(tmp_path, monkeypatch, capsys):
    prompts = read_prompts()["prompts"]
    loader = SimpleNamespace(from_pretrained=lambda name, jit: Perfect(prompts))
    monkeypatch.setitem(vars(mindsora), "TextToVideoPipeline", loader)  # the real one loads on first use
    status = cli.main(["evaluate", "obedience", "--model", "nano", "--output", str(tmp_path / "out"), "--steps", "3"])
    results = json.loads((tmp_path / "out/results.json").read_text())
    wrong = sum(entry["colour"] != "red" for entry in prompts[::8])
    assert results["shares"] == {"shape": 1.0, "colour": 1 - wrong / 64, "motion": 1.0}
    assert status == (0 if 1 - wrong / 64 >= 0.9 else 1)
    assert len(results["clips"]) == 64 and (tmp_path / "out/contact_sheet.png").stat().st_size > 10_000
    assert "100.0% right" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.partial"))
    scores = report.read(tmp_path / "out")["scores"]
    assert {name: score["value"] for name, score in scores.items()} == results["shares"]
    assert scores["colour"]["low"] < scores["colour"]["value"] < scores["colour"]["high"]
    assert (tmp_path / "out/report.html").read_text().count("data:video/mp4;base64,") == 64


@pytest.mark.parametrize(
    "content",
    ["{", "{}", '{"thresholds": {}, "prompts": []}', '{"thresholds": {"shape": 0.9}, "prompts": [{"prompt": "a"}]}'],
)
def test_bad_prompt_files(tmp_path, content, capsys):
    path = tmp_path / "prompts.json"
    path.write_text(content)
    assert cli.main(["evaluate", "obedience", "--output", str(tmp_path / "out"), "--prompts", str(path)]) == 2
    assert str(path) in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert cli.main(["evaluate", "obedience", "--output", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err


def test_bad_video():
    with pytest.raises(InputError, match="one clip"):
        measure(np.zeros((64, 64, 3), np.uint8))
