"""VBench: totals against published rows, every score's arithmetic, frame sampling, judges, files of the original."""

import json
import random
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mindsora import cli
from mindsora.data.toy.procedural import Thing, render
from mindsora.errors import InputError
from mindsora.evaluate import vbench
from mindsora.evaluate import vbench_arithmetic as arithmetic
from mindsora.evaluate import vbench_judges as judges_of
from mindsora.evaluate.evaluation import Asked
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Clip
from mindsora.evaluate.networks import Network
from mindsora.evaluate.running import evaluate, judge
from mindsora.media import export_to_video

GOLDEN = json.loads((Path(__file__).parent / "golden" / "vbench_rows.json").read_text())


def raw_of(row):
    return {name.replace(" ", "_"): value / 100 for name, value in row["raw_percent"].items()}


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda row: row["model"])
def test_totals_of_published_rows(row):
    found = arithmetic.totals(raw_of(row))
    for name, published in row["published"].items():
        assert 100 * found[name] == pytest.approx(published, abs=GOLDEN["tolerance"])
        assert 100 * found[name] == pytest.approx(row["computed"][name], abs=1e-9)


def test_constants_of_all_dimensions():
    for name, (low, high) in GOLDEN["constants"]["normalise"].items():
        dimension = arithmetic.DIMENSIONS[name.replace(" ", "_")]
        assert (dimension.low, dimension.high) == (low, high)
        assert dimension.weight == GOLDEN["constants"]["dimension_weight"][name]
    assert dimension.normalised(0.4) > 1  # not clipped


def test_totals_of_image_to_video():
    """Two times 0.5: every dimension half way between its bounds; then one dimension at its top at a time."""
    constants, names = GOLDEN["constants"]["i2v"], arithmetic.I2V_QUALITY | arithmetic.I2V
    short = {"Video-Text Camera Motion": "camera_motion", "Video-Image Subject Consistency": "i2v_subject"}
    short["Video-Image Background Consistency"] = "i2v_background"
    half, top = {}, {}
    for name, (low, high) in constants["normalise"].items():
        ours = short.get(name, name.lower().replace(" ", "_"))
        assert names[ours].weight == constants["dimension_weight"][name]
        half[ours], top[ours] = (low + high) / 2, high
    assert arithmetic.i2v_totals(half) == pytest.approx({"quality": 0.5, "i2v": 0.5, "total": 0.5})
    one = arithmetic.i2v_totals(half | {"camera_motion": top["camera_motion"]})
    assert one["i2v"] == pytest.approx(0.5 + 0.05 / 2.1) and one["total"] == pytest.approx(0.5 + 0.025 / 2.1)


def test_no_total_without_a_dimension():
    raw = raw_of(GOLDEN["rows"][0])
    with pytest.raises(InputError, match="no total without scene"):
        arithmetic.totals(raw | {"scene": None})
    raw.pop("color")
    with pytest.raises(InputError, match="no total without color"):
        arithmetic.totals(raw)


@pytest.mark.parametrize(
    "frames, count, numbers",
    [
        (16, 16, list(range(16))),
        (32, 16, list(range(0, 32, 2))),
        (17, 8, [0, 2, 5, 7, 9, 11, 13, 15]),  # intervals begin at 0 2 4 6 8 10 12 14
        (3, 5, [0, 1, 2, 2, 2]),
        (1, 2, [0, 0]),
    ],
)
def test_middle_frames(frames, count, numbers):
    bounds = np.linspace(0, frames, min(count, frames) + 1).astype(int)
    expected = [(a + b - 1) // 2 for a, b in zip(bounds, bounds[1:], strict=False)]
    assert arithmetic.middle_frames(frames, count) == expected + [expected[-1]] * (count - len(expected))
    if frames != 17:
        assert expected[: len(numbers)] == numbers[: len(expected)]


def test_eight_frames_a_second():
    assert arithmetic.eight_a_second(10, 24) == [0, 3, 6, 9]
    assert arithmetic.eight_a_second(3, 4) == [0, 1, 2]  # never more than there are
    assert arithmetic.eight_a_second(7, 20) == [0, 2, 4, 6]  # 2.5 rounds to even, as Python's round


@pytest.mark.parametrize("case", json.loads((Path(__file__).parent / "golden/vae_metrics.json").read_text())["cases"])
def test_flickering_of_the_golden_clips(case):
    t, c, h, w = case["shape"]
    grid = np.ogrid[:t, :c, :h, :w]
    clean = ((17 * grid[0] + 31 * grid[1] + 13 * grid[2] + 7 * grid[3]) % 97) / 96
    rng = random.Random(case["seed"])
    noise = np.array([rng.uniform(-1, 1) for _ in range(clean.size)]).reshape(clean.shape)
    spoilt = np.clip(clean + case["noise"] * noise, 0, 1)
    frames = np.rint(spoilt * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    assert arithmetic.flickering(frames) == pytest.approx(case["mae_flicker_score"], rel=1e-6)


def test_flickering_by_hand():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1] = 51
    assert arithmetic.flickering(frames) == pytest.approx(1 - 51 / 255)
    assert arithmetic.flickering(frames[:1]) is None


def test_smoothness_by_hand():
    ramp = np.arange(0, 80, 10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)

    def mean(a, b):
        return ((a.astype(int) + b) // 2).astype(np.uint8)

    assert arithmetic.smoothness(ramp, mean) == 1
    jerky = ramp.copy()
    jerky[1] += 30  # one of three dropped frames that have neighbours on both sides
    assert arithmetic.smoothness(jerky, mean) == pytest.approx(1 - 30 / 3 / 255)
    assert arithmetic.smoothness(ramp[:2], mean) is None


def test_consistency_by_hand():
    features = np.array([[1.0, 0], [0, 2], [-3, 0]])
    # frame 1: cosines 0 and 0; frame 2: 0 to the one before, -1 to the first, which counts 0
    assert arithmetic.consistency(features) == 0
    assert arithmetic.consistency(np.array([[1.0, 0], [1, 1], [1, 0]])) == pytest.approx(
        (0.5**0.5 + (0.5**0.5 + 1) / 2) / 2
    )
    assert arithmetic.consistency(features[:1]) is None


def test_dynamic_degree_by_hand():
    """At 256 pixels a pair moves above 6; 16 frames need 4 such pairs."""
    assert arithmetic.is_dynamic([7] * 4 + [0] * 11, 16, 256)
    assert not arithmetic.is_dynamic([7] * 3 + [0] * 12, 16, 256)
    assert not arithmetic.is_dynamic([6.0] * 15, 16, 256)  # above, not at
    assert arithmetic.is_dynamic([2] * 15, 16, 64)
    assert arithmetic.is_dynamic([0.0], 2, 256)  # round(0.5) is 0: no pair need move
    assert not arithmetic.is_dynamic([], 1, 256)


def test_static_filter_by_hand():
    """At 256 pixels and 16 frames: at most 2 pairs above 3, and the ends at most 12 apart."""
    assert arithmetic.is_static([4, 4] + [0] * 13, [12, 0], 16, 256)
    assert not arithmetic.is_static([4, 4, 4] + [0] * 12, [0, 0], 16, 256)
    assert not arithmetic.is_static([0] * 15, [0, 12.1], 16, 256)


def test_the_largest_motion_is_of_a_share():
    flow = np.zeros((10, 20, 2))
    flow[0, :10] = (3, 4)
    assert arithmetic.largest_motion(flow, 0.05) == 5
    assert arithmetic.largest_motion(flow, 0.1) == 2.5


@pytest.mark.parametrize(
    "a, b, across, along",
    [
        ((0, 0, 10, 10), (20, 3, 30, 13), 1.0, 0.0),  # apart on x
        ((0, 0, 10, 10), (0, 20, 10, 30), 0.0, 1.0),
        ((0, 0, 10, 10), (5, 5, 15, 15), 0.0, 0.0),  # on the diagonal
        ((0, 0, 10, 10), (5, 0, 15, 10), 0.1 / (50 / 150), 0.0),  # overlap of a third
        ((20, 0, 30, 10), (0, 0, 10, 10), 1.0, 0.0),  # left and right are not told apart
    ],
)
def test_positions_by_hand(a, b, across, along):
    assert arithmetic.position("on the left of", a, b) == arithmetic.position("on the right of", a, b) == across
    assert arithmetic.position("on the top of", a, b) == arithmetic.position("on the bottom of", a, b) == along


def test_the_best_pair_of_a_frame_counts():
    near, far, under = (0, 0, 10, 10), (20, 0, 30, 10), (5, 8, 15, 18)
    frames = [[("cat", near), ("dog", under), ("dog", far), ("car", (90, 0, 99, 9))], [("cat", near)]]
    assert arithmetic.spatial(frames, "cat", "dog", "on the left of") == 0.5
    with pytest.raises(InputError, match="must be one of on the left of"):
        arithmetic.spatial(frames, "cat", "dog", "behind")


def test_semantics_by_hand():
    labels = [{"cat", "dog"}, {"cat"}, set(), {"cat", "dog", "car"}]
    assert arithmetic.share_with(labels, ["cat"]) == 0.75 and arithmetic.share_with(labels, ["cat", "dog"]) == 0.5
    captions = [[("car", "a red car")], [("car", "a blue car"), ("bus", "a red bus")], [("car", "a car")], []]
    assert arithmetic.right_colour(captions, "car", "red") == 0.5
    assert arithmetic.right_colour(captions[2:], "car", "red") is None  # left out, not 0
    sure = {"running": 0.85, "walking": 0.2}
    assert arithmetic.right_action(sure, "running") == 1 and arithmetic.right_action(sure, "walking") == 0
    crowd = {f"x{n}": 0.99 for n in range(5)} | {"running": 0.9}
    assert arithmetic.right_action(crowd, "running") == 0  # not among the top five
    assert arithmetic.scene(["a golf course", "a golfer on some courses", "a lawn"], "golf course") == pytest.approx(
        2 / 3
    )
    assert arithmetic.cosine(np.array([1.0, 0]), np.array([3.0, 4])) == pytest.approx(0.6)


def test_pieces_of_long_videos():
    assert arithmetic.pieces(40, 8, "subject_consistency") == [(0, 16), (16, 32), (24, 40)]  # the last begins earlier
    assert arithmetic.pieces(32, 8, "color") == [(0, 16), (16, 32)]
    assert arithmetic.pieces(40, 8, "human_action") == [(0, 40)]
    assert arithmetic.pieces(200, 8, "temporal_style") == [(0, 80), (80, 160), (120, 200)]


def test_scores_between_pieces_come_to_the_scale_of_those_inside():
    inside = np.array([0.90, 0.92, 0.94, 0.96])
    between = np.array([0.5, 0.7, 0.3, 0.6])
    values = arithmetic.mapped(between, inside)
    assert list(np.argsort(values)) == list(np.argsort(between)) and values.min() >= 0.9 and values.max() <= 0.96
    assert arithmetic.long_consistency(inside, between) == pytest.approx((0.93 + values.mean()) / 2)


# Judges


def shift(steps, frames=9, size=64):
    """A textured picture that moves `steps` pixels a frame."""
    noise = np.random.RandomState(0).randint(0, 256, (size * 3, size * 3, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), 3)
    picture = (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)
    return np.stack([picture[size : 2 * size, size + steps * t : 2 * size + steps * t] for t in range(frames)])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_proxy_of_flow_measures_a_shift(steps):
    a, b = shift(steps, 2)
    flow = judges_of.dis_flow(a, b)[12:-12, 12:-12]
    assert np.abs(flow - (-steps, 0)).mean() < 0.3  # pixels


def network(path, inputs, nodes, output="y"):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, None, None]) for name in inputs]
    out = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, path.stem, values, out)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), path)
    return path


@pytest.fixture
def given(tmp_path):
    """Stand-ins for networks: mean colours as features and scores, the mean of two frames, their difference as flow."""
    folder = tmp_path / "nets"
    folder.mkdir()
    node = helper.make_node
    colours = [node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    score = [node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)]
    mean = [node("Mean", ["a", "b"], ["y"])]
    flow = [
        node("Sub", ["a", "b"], ["d"]),
        node("ReduceMean", ["d"], ["m"], axes=[1], keepdims=1),
        node("Concat", ["m", "m"], ["y"], axis=1),
    ]
    files = {name: network(folder / f"{name}.onnx", ["x"], colours) for name in ("dino", "clip")}
    files |= {name: network(folder / f"{name}.onnx", ["x"], score) for name in ("aesthetic", "musiq")}
    return files | {
        "amt": network(folder / "amt.onnx", ["a", "b"], mean),
        "raft": network(folder / "raft.onnx", ["a", "b"], flow),
    }


def answer_files(folder, names):
    """Answers that are right for the items of `info`, in every dimension."""
    cat = {"label": "cat", "caption": "a red cat", "box": [0, 0, 9, 9]}
    dog = {"label": "dog", "caption": "a dog", "box": [20, 0, 29, 9]}
    answers = {
        "grit": [[cat, dog]] * 16,
        "tag2text": ["an alley at night"] * 16,
        "umt": {"riding a bike": 0.99},
        "clip_text": [20.0, 22.0],
        "viclip": 0.25,
    }
    files = {}
    for name, answer in answers.items():
        files[name] = folder / f"{name}.json"
        content = {"name": name.upper(), "version": "test", "clips": dict.fromkeys(names, answer)}
        files[name].write_text(json.dumps(content))
    return files


PROMPTS = [
    {"prompt_en": "a red cat", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "a cat", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "cat"}}},
    {
        "prompt_en": "a cat and a dog",
        "dimension": ["multiple_objects"],
        "auxiliary_info": {"multiple_objects": {"object": "cat and dog"}},
    },
    {
        "prompt_en": "a cat on the left of a dog",
        "dimension": ["spatial_relationship"],
        "auxiliary_info": {
            "spatial_relationship": {
                "spatial_relationship": {"object_a": "cat", "object_b": "dog", "relationship": "on the left of"}
            }
        },
    },
    {"prompt_en": "A person is riding a bike", "dimension": ["human_action"]},
    {
        "prompt_en": "alley",
        "dimension": ["scene", "background_consistency"],
        "auxiliary_info": {"scene": {"scene": {"scene": "alley"}}},
    },
    {"prompt_en": "a cat, oil painting", "dimension": ["appearance_style"], "auxiliary_info": {"appearance_style": {}}},
    {"prompt_en": "a cat, zoom in", "dimension": ["temporal_style"]},
    {"prompt_en": "a cat runs", "dimension": ["subject_consistency", "dynamic_degree", "motion_smoothness"]},
    {"prompt_en": "a cat sits", "dimension": ["overall_consistency", "aesthetic_quality", "imaging_quality"]},
    {"prompt_en": "a still cat", "dimension": ["temporal_flickering"]},
]


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "VBench_full_info.json"
    path.write_text(json.dumps(PROMPTS))
    return path


def test_files_of_prompts(info):
    items = vbench.read_prompts(info)
    names = [item.name for item in items if item.prompts == ("a cat runs",)]
    assert names == [f"a cat runs-{number}" for number in range(5)]
    assert sum(item.prompts == ("a still cat",) for item in items) == 25  # the static filter drops some
    assert {item.seed for item in items if item.group == "a cat runs"} == set(range(5))
    (alley,) = (item for item in items if item.name == "alley-0")
    assert alley.facts["scene"] == {"scene": "alley"}


def test_a_prompt_that_stands_there_twice_is_one_item(tmp_path):
    """VBench's file has two such prompts."""
    entries = [
        {"prompt_en": "a", "dimension": ["appearance_style"], "auxiliary_info": {"appearance_style": {"x": "oil"}}},
        {"prompt_en": "a", "dimension": ["overall_consistency", "aesthetic_quality"]},
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    items = vbench.read_prompts(tmp_path / "p.json")
    assert [item.name for item in items] == [f"a-{n}" for n in range(5)]
    assert items[0].facts["dimensions"] == ["appearance_style", "overall_consistency", "aesthetic_quality"]
    assert items[0].facts["appearance_style"] == {"x": "oil"}


@pytest.mark.parametrize("content", ["{", "{}", "[]", '["a"]', '[{"prompt_en": "a", "dimension": ["beauty"]}]'])
def test_bad_files_of_prompts(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(InputError, match="p.json"):
        vbench.read_prompts(tmp_path / "p.json")


@pytest.fixture
def folder(info, tmp_path):
    """One tiny clip for every video that VBench looks up."""
    videos = tmp_path / "videos"
    videos.mkdir()
    moving, still = shift(2, 5, 32), shift(0, 5, 32)
    for item in vbench.read_prompts(info):
        if item.seed < 5:
            clip = still if item.group == "a still cat" else moving
            export_to_video(clip, videos / f"{item.name}.mp4", 8)
    return videos


@pytest.mark.full
def test_all_sixteen_dimensions_and_the_total(folder, info, given, tmp_path):
    names = [path.stem for path in folder.iterdir()]
    asked = Asked(tmp_path / "out", videos=folder, items=info, judges=given | answer_files(tmp_path, names))
    content = evaluate(vbench.EVALUATION, asked)
    assert content["complete"], (content["missing"], content["unreadable"])
    values = {name: score["value"] for name, score in content["scores"].items()}
    right = dict.fromkeys(
        ("object_class", "multiple_objects", "human_action", "color", "spatial_relationship", "scene"), 1
    )
    assert {name: values[name] for name in right} == right
    assert values["appearance_style"] == pytest.approx(0.21) and values["temporal_style"] == pytest.approx(0.25)
    assert 0.9 < values["temporal_flickering"] <= 1  # H.264 of a still
    expected = arithmetic.totals({name: values[name] for name in arithmetic.DIMENSIONS})
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert all(entry["kind"] == "model" for entry in content["judges"].values())
    assert content["judges"]["dynamic_degree"]["sha256"]


@pytest.mark.full
def test_no_total_where_a_judge_is_missing_or_a_proxy(folder, info, given, tmp_path, capsys):
    names = [path.stem for path in folder.iterdir()]
    everything = given | answer_files(tmp_path, names)
    for absent in ("raft", "viclip"):
        judges = {name: path for name, path in everything.items() if name != absent}
        content = evaluate(vbench.EVALUATION, Asked(tmp_path / absent, videos=folder, items=info, judges=judges))
        assert not {"total", "quality", "semantic"} & content["scores"].keys()
        if absent == "raft":
            assert content["judges"]["dynamic_degree"]["kind"] == "proxy"
        else:
            assert content["missing"] == ["temporal_style", "overall_consistency"] and not content["complete"]


@pytest.mark.full
def test_any_folder_is_judged_without_prompts(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    export_to_video(shift(0), videos / "still.mp4", 8)
    export_to_video(shift(3), videos / "moves.mp4", 8)
    status = cli.main(
        ["evaluate", "vbench", "--videos", str(videos), "--output", str(tmp_path / "o"), "--device", "CPU"]
    )
    content = json.loads((tmp_path / "o/report.json").read_text())
    assert status == 1 and not content["complete"]  # networks are missing
    values = {clip["name"]: clip["values"] for clip in content["clips"]}
    assert values["still"]["dynamic_degree"] == 0 and values["moves"]["dynamic_degree"] == 1
    assert values["moves"]["temporal_flickering"] is None and values["still"]["temporal_flickering"] > 0.98
    out = capsys.readouterr().out
    assert "missing: needs --judge dino=FILE.onnx" in out and "[proxy: OpenCV DIS optical flow]" in out


@pytest.mark.full
def test_corruptions_move_the_right_measure(given):
    """A freeze stops motion; flicker lowers flickering; shuffling lowers smoothness; the colours' consistency stays."""
    facts = {"dimensions": list(arithmetic.QUALITY)}
    moving, still = shift(3), shift(0)
    flicker = np.stack([(frame * (0.7 if t % 2 else 1)).astype(np.uint8) for t, frame in enumerate(still)])
    order = np.random.RandomState(1).permutation(len(moving))
    clips = {"moving": moving, "still": still, "flicker": flicker, "shuffled": moving[order]}
    judges = {name: path for name, path in given.items() if name != "raft"}
    measures = [measure for measure in vbench.measures(judges) if not measure.missing]
    rows = judge(measures, [Clip(Item(name, ("p",), facts=facts), frames) for name, frames in clips.items()])
    values = {row.item.name: row.values for row in rows}
    assert values["moving"]["dynamic_degree"] == 1 and values["still"]["dynamic_degree"] == 0
    assert values["still"]["temporal_flickering"] == 1 and values["still"]["motion_smoothness"] == 1
    assert values["flicker"]["temporal_flickering"] is None or values["flicker"]["temporal_flickering"] < 0.9
    assert values["flicker"]["motion_smoothness"] < values["moving"]["motion_smoothness"]
    assert values["shuffled"]["motion_smoothness"] < values["moving"]["motion_smoothness"]
    for measure in measures:
        for value in (values[name][measure.name] for name in clips):
            assert value is None or measure.bounds[0] <= value <= measure.bounds[1]


def test_inputs_of_networks():
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[:, 45:55] = 255
    assert judges_of.dino_input(frame).shape == (1, 3, 224, 373)  # short side 224, no crop
    assert judges_of.clip_input(frame).shape == (1, 3, 224, 224)
    assert judges_of.clip_input(frame.transpose(1, 0, 2)).shape == (1, 3, 224, 224)
    assert judges_of.musiq_input(frame).shape == (1, 3, 60, 100)  # never enlarged
    assert judges_of.musiq_input(np.zeros((1024, 512, 3), np.uint8)).shape == (1, 3, 512, 256)
    white = np.full((8, 8, 3), 255, np.uint8)
    for prepare, (mean, std) in (
        (judges_of.dino_input, judges_of.IMAGENET),
        (judges_of.clip_input, judges_of.CLIP_PIXELS),
    ):
        expected = (1 - np.array(mean)) / std
        np.testing.assert_allclose(prepare(white)[0].mean((1, 2)), expected, rtol=1e-5)


def test_networks_see_padded_frames_and_give_them_back(given):
    a, b = np.random.RandomState(0).randint(0, 256, (2, 30, 45, 3), np.uint8)
    flow = judges_of.raft_flow(Network(given["raft"], "raft", 2))(a, b)
    expected = (a.astype(np.float32) - b).mean(-1)
    np.testing.assert_allclose(flow[..., 0], expected, atol=1e-4)
    middle = judges_of.amt_interpolation(Network(given["amt"], "amt", 2))(a, b)
    np.testing.assert_allclose(middle, (a.astype(float) + b) / 2, atol=0.51)  # rounded to 8 bits


def test_bad_answers(tmp_path):
    (tmp_path / "a.json").write_text('{"clips": {}}')
    with pytest.raises(InputError, match="need name, version and clips"):
        judges_of.Answers(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"name": "GRiT", "version": "1", "clips": {"a-0": [["no object"]]}}')
    measure = next(m for m in vbench.measures({"grit": tmp_path / "b.json"}) if m.name == "object_class")
    facts = {"dimensions": ["object_class"], "object_class": {"object": "cat"}}
    rows = judge([measure], [Clip(Item(name, ("a",), facts=facts), shift(0, 2)) for name in ("a-0", "a-1")])
    assert "are not of the form" in rows[0].error and "have none for 'a-1'" in rows[1].error


# The original program


@pytest.mark.full
def test_export_writes_what_vbench_reads(folder, info, tmp_path):
    """Nothing but PROMPT-0.mp4 to PROMPT-4.mp4, of the flickering prompts only static clips, numbered without a gap."""
    export_to_video(shift(4, 5, 32), folder / "a still cat-1.mp4", 8)  # moves: the static filter drops it
    asked = Asked(tmp_path / "out", videos=folder, items=info, options={"export": str(tmp_path / "export")})
    evaluate(vbench.EVALUATION, asked)
    names = sorted(path.name for path in (tmp_path / "export").iterdir())
    assert [name for name in names if name.startswith("a still cat")] == [f"a still cat-{n}.mp4" for n in range(4)]
    assert [name for name in names if name.startswith("alley")] == [f"alley-{n}.mp4" for n in range(5)]
    assert len(names) == 54
    still = (tmp_path / "export/a still cat-1.mp4").read_bytes()
    assert still == (folder / "a still cat-2.mp4").read_bytes()
    with pytest.raises(InputError, match="is not empty"):
        evaluate(vbench.EVALUATION, replace(asked, output=tmp_path / "again"))


def results(row, path):
    """A results file of the original program with the numbers of a published row."""
    content = {}
    for name, value in raw_of(row).items():
        scale = 100 if name == "imaging_quality" else 1
        videos = [{"video_path": f"/x/p-{n}.mp4", "video_results": value * scale + (n - 1) / 100} for n in range(3)]
        content[name] = [value, videos]
    path.write_text(json.dumps(content))
    return content


@pytest.mark.full
def test_import_of_the_originals_results(tmp_path, capsys):
    row = GOLDEN["rows"][0]
    results(row, tmp_path / "results.json")
    arguments = ["--import", str(tmp_path / "results.json"), "--output", str(tmp_path / "o"), "--device", "CPU"]
    assert cli.main(["evaluate", "vbench", *arguments]) == 0
    content = json.loads((tmp_path / "o/report.json").read_text())
    assert content["complete"]
    for name, published in row["published"].items():
        assert 100 * content["scores"][name]["value"] == pytest.approx(published, abs=0.01)
    for name, value in raw_of(row).items():
        assert content["scores"][name]["value"] == pytest.approx(value, abs=1e-12)
    assert content["judges"]["scene"]["name"] == "original VBench" and content["model"] is None


def test_an_import_of_image_to_video_has_its_own_totals(tmp_path):
    raw = dict.fromkeys(arithmetic.I2V_QUALITY | arithmetic.I2V, 0.9)
    content = {name: [value, [{"video_path": "a-0.mp4", "video_results": value}]] for name, value in raw.items()}
    content["camera_motion"] = [0.9, {"pan_left": 0.9}, content["camera_motion"][1]]  # the original adds its types
    (tmp_path / "r.json").write_text(json.dumps(content))
    found = evaluate(vbench.EVALUATION, Asked(tmp_path / "o", options={"import": str(tmp_path / "r.json")}))
    assert found["complete"] and "total" not in found["scores"]
    assert found["scores"]["i2v_total"]["value"] == pytest.approx(arithmetic.i2v_totals(raw)["total"])


def test_an_import_that_lacks_a_dimension_has_no_total(tmp_path):
    content = results(GOLDEN["rows"][0], tmp_path / "results.json")
    content.pop("scene")
    (tmp_path / "results.json").write_text(json.dumps(content))
    found = evaluate(vbench.EVALUATION, Asked(tmp_path / "o", options={"import": str(tmp_path / "results.json")}))
    assert found["missing"] == ["scene"] and not found["complete"] and "total" not in found["scores"]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"beauty": [1, []]}, "unknown dimension 'beauty'"),
        ({"scene": 1}, "scene is not of VBench's form"),
        ({"scene": [1, [{"video": "x"}]]}, "scene is not of VBench's form"),
    ],
)
def test_bad_results(tmp_path, content, message):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        evaluate(vbench.EVALUATION, Asked(tmp_path / "o", options={"import": str(tmp_path / "r.json")}))


def test_generation_needs_vbenchs_prompts(tmp_path):
    with pytest.raises(InputError, match="VBench_full_info.json, which the package vbench has"):
        evaluate(vbench.EVALUATION, Asked(tmp_path / "o", model="nano"))
    with pytest.raises(InputError, match="takes --model or --videos, one of them, or --import"):
        evaluate(vbench.EVALUATION, Asked(tmp_path / "o"))


@pytest.mark.full
def test_a_torn_clip_is_named(folder, info, tmp_path):
    path = folder / "alley-3.mp4"
    path.write_bytes(path.read_bytes()[:300])
    content = evaluate(vbench.EVALUATION, Asked(tmp_path / "o", videos=folder, items=info))
    assert list(content["unreadable"]) == ["alley-3"] and not content["complete"]


def test_a_static_object_of_the_data_is_static_and_a_moving_one_is_not():
    rng = np.random.RandomState(0)
    facts = {"dimensions": ["dynamic_degree", "temporal_flickering"]}
    shown = {motion: render((Thing("square", "red", motion),), "gray", rng) for motion in ("still", "left")}
    measures = [m for m in vbench.measures({}) if m.name in facts["dimensions"]]
    rows = judge(measures, [Clip(Item(name, ("p",), facts=facts), frames) for name, frames in shown.items()])
    still, left = (row.values for row in rows)
    assert still["temporal_flickering"] == 1 and still["dynamic_degree"] == 0
    # The object moves 2 pixels a frame: above the 1.5 of a 64-pixel frame.
    assert left["temporal_flickering"] is None and left["dynamic_degree"] == 1
