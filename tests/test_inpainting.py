"""The evaluation of inpainting scores clips of known content correctly and rejects cheap answers."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_pipeline
from test_obedience import blurred, compressed, noisy

import mindsora
from mindsora import cli
from mindsora.data.toy.procedural import DIRECTIONS, HELD_OUT, MOTIONS, Thing
from mindsora.errors import InputError
from mindsora.evaluate import inpainting
from mindsora.evaluate.inpainting import (
    ATTRIBUTES,
    TASKS,
    against_still,
    below,
    frozen_prompts,
    ground_truth,
    read_prompts,
    score_tasks,
    split_frames,
)  # fmt: skip

PROMPTS = read_prompts()["prompts"]
THRESHOLDS = read_prompts()["thresholds"]
IN_THE_BOX = PROMPTS[::7]  # of all tasks, motions, shapes


def scores(answer, prompts=PROMPTS):
    """Task -> values, where every clip is answer(ground truth, numbers of the frames to make)."""
    clips = []
    for entry in prompts:
        truth = ground_truth(entry)
        clips.append(answer(truth, split_frames(entry["task"], len(truth))[1]))
    return score_tasks(prompts, clips)[0]


def test_prompts_are_the_frozen_ones():
    content = read_prompts()
    assert content == frozen_prompts()
    assert content["thresholds"] == {
        "given_psnr_db": 25,
        "last_psnr_db": 25,
        "shape": 0.9,
        "colour": 0.9,
        "motion": 0.8,
    }
    assert len({entry["seed"] for entry in PROMPTS}) == len(PROMPTS) == 72
    for task in TASKS:
        mine = [entry for entry in PROMPTS if entry["task"] == task]
        assert {Thing(*(entry[name] for name in ATTRIBUTES)) for entry in mine} == HELD_OUT and len(mine) == 24
        assert set(Counter(entry["motion"] for entry in mine).values()) == {3}
    for entry in frozen_prompts("train")["prompts"]:
        assert Thing(*(entry[name] for name in ATTRIBUTES)) not in HELD_OUT


def test_given_and_made_frames():
    assert split_frames("i2v", 17) == ([0], range(1, 17))
    assert split_frames("transition", 17) == ([0, 16], range(1, 16))
    assert split_frames("continuation", 17) == (list(range(8)), range(8, 17))


@pytest.mark.parametrize("prompts", [PROMPTS, frozen_prompts("train")["prompts"]], ids=["heldout", "train"])
@pytest.mark.parametrize("spoil", [np.asarray, blurred, noisy, compressed])
def test_right_on_ground_truth(spoil, prompts):
    """At least 99 %, also with the blur, noise or smear of an autoencoder's errors."""
    tasks = scores(lambda truth, made: spoil(truth), prompts)
    assert tasks.keys() == set(TASKS)
    for name in ATTRIBUTES:
        assert np.mean([tasks[task][name] for task in TASKS]) >= 0.99, (name, tasks)
    assert not below(tasks, THRESHOLDS), tasks


def repeat(truth, made):
    """The given frames stay in place; the made frames repeat the one before them."""
    clip = truth.copy()
    clip[made.start : made.stop] = truth[made.start - 1]
    return clip


def fade(truth, made):
    """Every made frame is a mixture of the frames at the clip's ends."""
    clip = truth.copy()
    for t in made:
        clip[t] = truth[0] + (t / 16) * (truth[-1].astype(np.float32) - truth[0])
    return clip


def test_the_first_frame_tells_most_motions():
    """The reason for `against_still`: the object's place and size alone, without the prompt, give 21 of 24 right."""
    right = 0
    for entry in PROMPTS:
        if entry["task"] == "i2v":
            frame = ground_truth(entry)[0].astype(int)
            y, x = np.nonzero(frame.max(-1) - frame.min(-1) > 60)  # backgrounds are gray
            place, area = np.array([x.mean(), y.mean()]) - 31.5, len(x)
            name = min(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], place))  # it moves away from its start
            guess = (
                name if np.hypot(*place) > 6 else "growing" if area < 200 else "shrinking" if area > 550 else "still"
            )
            right += guess == entry["motion"]
    assert right == 21 and right / 24 > THRESHOLDS["motion"]


def test_against_still():
    """Only image to video; the given picture is of an object at rest, while the prompt is what is scored."""
    prompts = against_still(PROMPTS)
    assert len(prompts) == 24
    for entry in prompts:
        np.testing.assert_array_equal(ground_truth(entry), ground_truth(entry | {"motion": "still"}))
    assert scores(repeat, prompts)["i2v"]["motion"] == 3 / 24
    obedient = [ground_truth(entry) for entry in PROMPTS if entry["task"] == "i2v"]
    assert score_tasks(prompts, obedient)[0]["i2v"]["motion"] == 1


def first(truth, made):
    """The first frame, over and over."""
    return np.repeat(truth[:1], len(truth), 0)


# Right where the prompt asks for a still object; fading is also right where an object grows or turns by fading.
@pytest.mark.parametrize("answer, most", [(repeat, 3), (first, 3), (fade, 12)])
def test_cheap_answers_fail_the_motion_of_every_task(answer, most):
    tasks = scores(answer)
    for task in TASKS:
        assert (task, "motion") in below(tasks, THRESHOLDS), tasks
        assert tasks[task]["motion"] <= most / 24, tasks


def test_a_transition_must_end_at_the_given_frame():
    tasks = scores(first)
    assert ("transition", "last_psnr_db") in below(tasks, THRESHOLDS)
    assert "last_psnr_db" not in tasks["i2v"]


def test_given_frames_do_not_count_for_what_was_made():
    """A clip that turns into another object after the given frames has neither shape nor colour right."""

    def melt(truth, made):
        clip = truth.copy()
        other = ground_truth({"seed": 0, "shape": "circle", "colour": "red", "motion": "still", "background": "black"})
        clip[made.start : made.stop] = other[made.start : made.stop]
        return clip

    prompts = [entry for entry in PROMPTS if entry["shape"] != "circle" and entry["colour"] != "red"]
    tasks = scores(melt, prompts)
    for task in TASKS:
        assert tasks[task]["shape"] == tasks[task]["colour"] == 0, tasks


def test_chance_on_shuffled_prompts():
    """Clips of shuffled prompts match motion, shape and colour only by chance, and fail the thresholds."""
    order = np.random.RandomState(0).permutation(len(PROMPTS))
    asked = [PROMPTS[i] | {"task": entry["task"], "seed": entry["seed"]} for i, entry in zip(order, PROMPTS)]
    tasks = score_tasks(asked, [ground_truth(entry) for entry in PROMPTS])[0]
    for name in ATTRIBUTES:
        counts = Counter(entry[name] for entry in PROMPTS)
        chance = sum((count / len(PROMPTS)) ** 2 for count in counts.values())
        share = np.mean([tasks[task][name] for task in TASKS])
        assert abs(share - chance) < 4 * (chance * (1 - chance) / len(PROMPTS)) ** 0.5, (name, share, chance)
        assert all((task, name) in below(tasks, THRESHOLDS) for task in TASKS)


class Perfect:
    """A pipeline that draws what the prompt file asks, if it is given the right frames."""

    index = SimpleNamespace(num_frames=17, height=64)

    def __init__(self, answer):
        self.asked, self.answer = {entry["seed"]: entry for entry in PROMPTS}, answer

    def set_progress_bar_config(self, disable):
        assert disable

    def __call__(self, prompt, seed, images=(), video=None, keep=None, **settings):
        entry = self.asked[seed]
        truth = ground_truth(entry)
        assert entry["prompt"] == prompt and settings == {"num_inference_steps": 3}
        given, made = split_frames(entry["task"], 17)
        if entry["task"] == "continuation":
            assert keep == 8 and not images
            np.testing.assert_array_equal(video, truth[:8])
        else:
            assert video is None and [number for _, number in images] == given
            for picture, number in images:
                np.testing.assert_array_equal(picture, truth[number])
        return SimpleNamespace(frames=self.answer(truth, made)[None] / np.float32(255))


@pytest.mark.parametrize("answer, status", [(lambda truth, made: truth, 0), (repeat, 1)], ids=["truth", "repeat"])
def test_command_writes_results_and_contact_sheet(answer, status, tmp_path, monkeypatch, capsys):
    loader = SimpleNamespace(from_pretrained=lambda name, jit: Perfect(answer))
    monkeypatch.setitem(vars(mindsora), "ImageToVideoPipeline", loader)  # the real one loads on first use
    assert cli.main(["evaluate", "inpainting", "--output", str(tmp_path / "out"), "--steps", "3"]) == status
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["tasks"]["transition"]["last_psnr_db"] == 40 and results["model"] == "nano_i2v"
    assert results["tasks"]["i2v"]["motion"] == (3 / 24 if status else 1)
    assert len(results["clips"]) == 72 and (tmp_path / "out/contact_sheet.png").stat().st_size > 10_000
    assert "100.0% right" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.partial"))


def test_a_model_runs_through_it(tmp_path, capsys):
    """Random weights, three prompts: the real pipeline accepts the frames, and its output is no answer."""
    model = tiny_pipeline.write_v1_3(tmp_path / "model", "i2v")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"width": 32}))
    prompts = [PROMPTS[i] | {"prompt": "a circle"} for i in (0, 24, 48)]  # 40 tokens of the test's tokeniser hold that
    content = {"thresholds": THRESHOLDS, "prompts": prompts}
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    arguments = ["--model", str(model), "--output", str(tmp_path / "out"), "--prompts", str(tmp_path / "prompts.json")]
    assert cli.main(["evaluate", "inpainting", *arguments, "--steps", "1", "--device", "CPU", "--jit", "off"]) == 1
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [clip["task"] for clip in results["clips"]] == list(TASKS) == list(results["tasks"])
    assert results["settings"] == {"num_inference_steps": 1}


@pytest.mark.full
def test_the_model_in_the_box_goes_on(tmp_path):
    """Given frames are shown, and what is made shows what the prompt says, in at least 10 of 11 clips. All 72 are
    `benchmarks/inpainting.py`, by which one in twelve has something wrong."""
    assert {entry["motion"] for entry in IN_THE_BOX} == set(MOTIONS) and len(IN_THE_BOX) == 11
    (tmp_path / "prompts.json").write_text(json.dumps({"thresholds": THRESHOLDS, "prompts": IN_THE_BOX}))
    arguments = ["--output", str(tmp_path / "out"), "--prompts", str(tmp_path / "prompts.json"), "--device", "CPU"]
    assert (
        cli.main(["evaluate", "inpainting", *arguments]) < 2
    )  # 1: a share of so few clips falls below its threshold with the first wrong one
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert not [name for _, name in below(results["tasks"], THRESHOLDS) if name.endswith("_psnr_db")]
    right = [all(clip["measured"][name] == clip[name] for name in ATTRIBUTES) for clip in results["clips"]]
    assert sum(right) >= 10, results["clips"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"task": "i2w"}, ["'i2w'", "i2v, transition, continuation"]),
        ({"shape": "star"}, ["star"]),
    ],
)
def test_bad_prompts(change, words, tmp_path, capsys):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"thresholds": THRESHOLDS, "prompts": [PROMPTS[0] | change]}))
    assert cli.main(["evaluate", "inpainting", "--output", str(tmp_path / "out"), "--prompts", str(path)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and not (tmp_path / "out").exists()


def test_a_text_prompt_file_is_refused():
    with pytest.raises(InputError, match="every prompt needs task"):
        read_prompts(inpainting.PROMPTS.with_name("obedience_prompts.json"))
