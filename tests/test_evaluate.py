"""The shape of every evaluation: items, clips of anybody, rows, intervals, report, page, two reports side by side."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest

from mindsora import cli
from mindsora.data.toy.procedural import Thing, render
from mindsora.errors import InputError
from mindsora.evaluate import generation, registry, report
from mindsora.evaluate.evaluation import Asked, Evaluation
from mindsora.evaluate.intervals import interval, paired_interval
from mindsora.evaluate.items import Item, read_items
from mindsora.evaluate.measures import Clip, Judge, Measure, Row, Score, missing
from mindsora.evaluate.running import evaluate, row_of
from mindsora.media import export_to_video
from mindsora.runtime import Runtime

EXACT = Judge("arithmetic")
BRIGHTNESS = Measure("brightness", EXACT, lambda clip: clip.frames.mean() / 255)
EVALUATION = Evaluation("bright", "How bright clips are.", None, lambda judges: (BRIGHTNESS,), of_any_video=True)


def gray(level, frames=5, size=32):
    return np.full((frames, size, size, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Clips of other sizes, rates and codecs."""
    videos = tmp_path / "videos"
    videos.mkdir()
    export_to_video(gray(51), videos / "dark.mp4", 8)
    export_to_video(gray(204, 9, 48), videos / "light <b>.mp4", 30)
    with av.open(str(videos / "old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.height, stream.width, stream.pix_fmt = 40, 64, "yuv420p"
        for frame in np.full((6, 40, 64, 3), 102, np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return videos


def write_items(path, *entries):
    path.write_text(json.dumps({"provenance": "written here", "items": list(entries)}))
    return path


def test_clips_of_anybody_are_judged(folder, tmp_path):
    content = evaluate(EVALUATION, Asked(tmp_path / "out", videos=folder))
    assert content["complete"] and content["items"] == 3
    values = {clip["name"]: clip["values"]["brightness"] for clip in content["clips"]}
    # within two levels: H.264 and MPEG-4 round gray
    assert values == pytest.approx({"dark": 0.2, "light <b>": 0.8, "old": 0.4}, abs=2 / 255)
    score = content["scores"]["brightness"]
    assert score["value"] == pytest.approx(np.mean(list(values.values())), abs=1e-12)
    assert min(values.values()) <= score["low"] < score["value"] < score["high"] <= max(values.values())
    assert report.read(tmp_path / "out") == json.loads(json.dumps(content))


def test_the_page_holds_clips_and_loads_nothing(folder, tmp_path):
    evaluate(EVALUATION, Asked(tmp_path / "out", videos=folder))
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3 and "http" not in page
    assert "light &lt;b&gt;" in page and "light <b>" not in page  # names of files are foreign text


def test_a_corrupt_clip_is_named_and_the_report_is_not_complete(folder, tmp_path):
    (folder / "torn.mp4").write_bytes((folder / "dark.mp4").read_bytes()[:200])
    content = evaluate(EVALUATION, Asked(tmp_path / "out", videos=folder))
    assert not content["complete"] and content["items"] == 4 and content["scores"]["brightness"]["clips"] == 3
    assert list(content["unreadable"]) == ["torn"] and "torn.mp4" in content["unreadable"]["torn"]
    assert any("torn" in line for line in report.lines(content)) and "complete: false" in report.lines(content)


def test_a_clip_that_is_asked_for_and_absent_is_named(folder, tmp_path):
    path = write_items(tmp_path / "i.json", {"name": "dark", "prompts": ["a"]}, {"name": "gone", "prompts": ["b"]})
    content = evaluate(replace(EVALUATION, items=path, of_any_video=False), Asked(tmp_path / "out", videos=folder))
    assert content["unreadable"] == {"gone": "no video is named 'gone'"} and not content["complete"]


def test_a_missing_judge_is_named_and_gives_no_score(folder, tmp_path):
    both = replace(EVALUATION, measures=lambda judges: (BRIGHTNESS, missing("beauty", "a network")))
    content = evaluate(both, Asked(tmp_path / "out", videos=folder))
    assert content["missing"] == ["beauty"] and not content["complete"] and list(content["scores"]) == ["brightness"]
    assert "a network" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("least, reached", [(0.4, True), (0.6, False)])
def test_thresholds(folder, tmp_path, least, reached):
    content = evaluate(replace(EVALUATION, thresholds={"brightness": least}), Asked(tmp_path / "out", videos=folder))
    assert content["scores"]["brightness"]["reached"] is reached and report.reached(content) is reached


def test_lower_can_be_better(folder, tmp_path):
    dark = replace(EVALUATION, measures=lambda _: (replace(BRIGHTNESS, higher_is_better=False),))
    content = evaluate(replace(dark, thresholds={"brightness": 0.6}), Asked(tmp_path / "out", videos=folder))
    assert report.reached(content)


def test_shots_are_one_clip(folder, tmp_path):
    export_to_video(gray(0), folder / "seq-0.mp4", 8)
    export_to_video(gray(255, 3), folder / "seq-1.mp4", 8)
    path = write_items(tmp_path / "i.json", {"name": "seq", "prompts": ["a", "b"]})
    step = Measure("step", EXACT, lambda clip: (clip.shots[1].mean() - clip.shots[0].mean()) / 255)
    shots = replace(EVALUATION, items=path, of_any_video=False, measures=lambda _: (step,))
    content = evaluate(shots, Asked(tmp_path / "out", videos=folder))
    assert content["clips"][0]["values"]["step"] == pytest.approx(1, abs=2 / 255)
    assert content["clips"][0]["files"] == ["seq-0.mp4", "seq-1.mp4"]


def rows(values, group="{}"):
    return [Row(Item(f"i{n}", ("p",), group=group.format(n)), {"x": value}) for n, value in enumerate(values)]


def mean(drawn):
    return float(np.mean([row.values["x"] for row in drawn]))


@pytest.mark.full
def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng, hits = np.random.RandomState(0), 0
    for _ in range(200):
        low, high = interval(rows(rng.normal(0, 1, 40)), mean)
        hits += low <= 0 <= high
    # 95 % of 200 less four standard deviations of 3; a percentile interval of 40 values is a little too narrow
    assert 178 <= hits < 200


def test_an_interval_draws_groups():
    """Ten copies of each of six values say no more than the six."""
    values = np.random.RandomState(0).normal(0, 1, 6)
    copies = [Row(Item(f"i{n}", ("p",), group=str(n % 6)), {"x": values[n % 6]}) for n in range(60)]
    assert interval(copies, mean) == pytest.approx(interval(rows(values), mean), abs=1e-12)
    assert interval(rows([1.0]), mean) is None


def test_a_paired_interval_takes_out_what_both_share():
    rng = np.random.RandomState(1)
    hard = rng.normal(0, 1, 40)
    first, second = rows(hard), rows(hard + 0.1 + rng.normal(0, 0.02, 40))
    low, high = paired_interval(list(zip(first, second)), mean)
    assert 0.08 < low < 0.1 < high < 0.12
    assert interval(first, mean)[1] - interval(first, mean)[0] > 0.3


def test_two_reports_side_by_side(folder, tmp_path, capsys):
    evaluate(EVALUATION, Asked(tmp_path / "a", videos=folder))
    brighter = Measure("brightness", EXACT, lambda clip: clip.frames.mean() / 255 + 0.1)
    evaluate(replace(EVALUATION, measures=lambda _: (brighter,)), Asked(tmp_path / "b", videos=folder))
    paths = [str(tmp_path / name) for name in "ab"]
    assert cli.main(["evaluate", "report", *paths, "--output", str(tmp_path / "c")]) == 0
    entry = json.loads((tmp_path / "c/compared.json").read_text())["measures"]["brightness"]
    assert [entry[name] for name in ("difference", "low", "high")] == pytest.approx([0.1] * 3, abs=1e-9)
    assert "+0.1000" in capsys.readouterr().out
    assert (tmp_path / "c/compared.html").read_text().count("data:video/mp4;base64,") == 6


def test_reports_that_cannot_be_compared(folder, tmp_path, capsys):
    content = evaluate(EVALUATION, Asked(tmp_path / "a", videos=folder))
    with pytest.raises(InputError, match="give two of one evaluation"):
        report.compare(content, content | {"evaluation": "other"})
    with pytest.raises(InputError, match="no judged item in common"):
        report.compare(content, content | {"clips": []})
    (tmp_path / "no.json").write_text("{}")
    assert cli.main(["evaluate", "report", str(tmp_path / "a"), str(tmp_path / "no.json")]) == 2
    assert "is no report" in capsys.readouterr().err
    assert cli.main(["evaluate", "report", str(tmp_path / "a")]) == 2
    assert "compares two reports, not 1" in capsys.readouterr().err


def test_a_measure_of_arrays_serves_scores_over_the_set():
    feature = Measure("feature", EXACT, lambda clip: clip.frames.mean((1, 2, 3)))
    row = row_of((feature, BRIGHTNESS), Clip(Item("a", ("p",)), gray(51)))
    assert list(row.features) == ["feature"] and row.values == {"brightness": pytest.approx(0.2)}
    score = Score("spread", EXACT, lambda rows: float(np.std([row.features["feature"].mean() for row in rows])))
    content = report.build(EVALUATION, {"notes": []}, (feature,), (score,), [row])
    assert content["scores"]["spread"]["value"] == 0 and content["clips"][0]["values"] == {"brightness": 0.2}


@pytest.mark.parametrize(
    "content, message",
    [
        ({"items": [{"name": "a", "prompts": ["p"]}]}, "provenance"),
        ({"provenance": "x", "items": []}, "at least one"),
        ({"provenance": "x", "items": [{"name": "a", "prompt": "p"}]}, "did you mean 'prompts'"),
        ({"provenance": "x", "items": [{"name": "../a", "prompts": ["p"]}]}, "without a folder"),
        ({"provenance": "x", "items": [{"name": "a", "prompts": []}]}, "no prompt"),
        ({"provenance": "x", "items": [{"name": "a", "prompts": ["p"]}] * 2}, "names must differ"),
        ({"provenance": "x", "items": ["a"]}, "item 0 must be an object"),
    ],
)
def test_bad_files_of_items(tmp_path, content, message):
    (tmp_path / "i.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_items(tmp_path / "i.json")


@pytest.mark.parametrize(
    "asked, message",
    [
        ({}, "--model or --videos, one of them"),
        ({"model": "nano", "videos": "v"}, "one of them"),
        ({"videos": "absent"}, "does not exist"),
        ({"videos": "v", "judges": {"dino": "x"}}, "judge 'dino' does not belong to bright"),
    ],
)
def test_bad_requests_write_nothing(folder, tmp_path, asked, message):
    asked = (
        asked | {"videos": folder if asked.get("videos") == "v" else tmp_path / "absent"}
        if "videos" in asked
        else asked
    )
    with pytest.raises(InputError, match=message):
        evaluate(EVALUATION, Asked(tmp_path / "out", **asked))
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_generation_goes_on_where_it_stopped(tmp_path):
    """nano, two items: all clips are kept with manifests, a second run makes none, other settings are refused."""
    path = write_items(
        tmp_path / "i.json",
        {"name": "a", "prompts": ["a red circle moving left"], "seed": 3},
        {"name": "b", "prompts": ["a blue square standing still"], "seed": 4},
    )
    evaluation = replace(EVALUATION, items=path, of_any_video=False)
    asked = Asked(tmp_path / "out", model="nano", settings={"num_inference_steps": 1}, policy=Runtime(jit="off"))
    content = evaluate(evaluation, asked)
    assert content["complete"] and content["seeds"] == [3, 4]
    assert content["clips"][0]["cost"]["seconds"] > 0
    clips = sorted((tmp_path / "out/clips").iterdir())
    assert [clip.name for clip in clips] == ["a.mp4", "a.mp4.json", "b.mp4", "b.mp4.json"]
    times = {clip.name: clip.stat().st_mtime_ns for clip in clips}
    (tmp_path / "out/clips/b.mp4").unlink()  # as a killed run leaves it
    again = evaluate(evaluation, asked)
    assert again["clips"][0]["values"] == content["clips"][0]["values"]
    assert again["clips"][1]["values"] == content["clips"][1]["values"]  # the same seed, the same bytes
    assert (tmp_path / "out/clips/a.mp4").stat().st_mtime_ns == times["a.mp4"]
    with pytest.raises(InputError, match="num_inference_steps = '1', not '2'"):
        evaluate(evaluation, replace(asked, settings={"num_inference_steps": 2}))


@pytest.mark.full
def test_given_frames_of_a_shot_are_files_that_the_manifest_names(tmp_path):
    """nano_i2v, two shots: the second is given the last frame of the first."""
    path = write_items(
        tmp_path / "i.json", {"name": "s", "prompts": ["a red circle moving left", "a red circle growing"]}
    )
    start = render((Thing("circle", "red", "left"),), "gray", np.random.RandomState(0))[0]

    def given(item, shot, before, size):
        return [(start if before is None else before[-1], 0)]

    evaluation = replace(EVALUATION, items=path, of_any_video=False, given=given)
    content = evaluate(
        evaluation,
        Asked(tmp_path / "out", model="nano_i2v", settings={"num_inference_steps": 1}, policy=Runtime(jit="off")),
    )
    assert content["complete"]
    made = json.loads((tmp_path / "out/clips/s-1.mp4.json").read_text())
    assert made["request"]["given"]["images"] == [[str(tmp_path / "out/given/s-1-0000.png"), "0"]]


def test_no_evaluation_of_that_name():
    with pytest.raises(InputError, match="no evaluation 'beauty'"):
        registry.find("beauty")


def test_ranks_share_the_items_and_the_last_one_reports(tmp_path, monkeypatch):
    """Three ranks, five items; each makes its own, and no clip is made twice."""
    entries = [{"name": f"i{n}", "prompts": ["p"]} for n in range(5)]
    evaluation = replace(EVALUATION, items=write_items(tmp_path / "i.json", *entries), of_any_video=False)
    made = []

    def make(evaluation, items, asked):
        made.append([item.name for item in items])
        for item in items:
            export_to_video(gray(51), asked.output / "clips" / f"{item.name}.mp4", 8)

    monkeypatch.setattr(generation, "_make", make)
    monkeypatch.setattr(generation.runtime, "world", lambda: 3)
    reports = []
    for rank in (2, 0, 1):
        monkeypatch.setattr(generation.runtime, "rank", lambda rank=rank: rank)
        reports.append(evaluate(evaluation, Asked(tmp_path / "out", model="nano")))
    assert made == [["i2"], ["i0", "i3"], ["i1", "i4"]]
    assert reports[:2] == [None, None] and reports[2]["complete"] and reports[2]["items"] == 5
