"""Recipes with a base and an overlay, and the published stages of v1.5 and v1.3."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from mindsora import cli
from mindsora.errors import InputError
from mindsora.train.inherit import inherited
from mindsora.train.recipe import StageRecipe, load_recipe, written

RECIPES = Path(__file__).parents[1] / "recipes"
LINES = {
    "v1_5": [*(f"image_{n}" for n in range(1, 5)), *(f"video_{n}" for n in range(1, 6))],
    "v1_3": ["t2v_1", "t2v_2", "t2v_3", *(f"i2v_1_{n}" for n in range(1, 8)), "i2v_2"],
}
STAGES = [(line, stage) for line, stages in LINES.items() for stage in stages]


@cache
def stage(line: str, name: str, *overrides: str) -> StageRecipe:
    return load_recipe(RECIPES / line / "train" / f"{name}.yaml", overrides)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_recipe_keeps_what_its_base_has_and_it_does_not(tmp_path):
    path = write(
        tmp_path,
        own="base: middle.yaml\ndata: {batch: 3}\nlist: [4]",
        middle="base: low.yaml\ndata: {size: [1, 2]}\nrun: {steps: 7}",
        low="task: a\ndata: {batch: 1, fps: 8}\nlist: [1, 2, 3]",
    )
    assert inherited(path) == {
        "task": "a", "data": {"batch": 3, "fps": 8, "size": [1, 2]}, "list": [4], "run": {"steps": 7},
    }  # fmt: skip


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a": "base: a.yaml"}, "a.yaml -> a.yaml is a circle"),
        ({"a": "base: b.yaml", "b": "base: c.yaml", "c": "base: b.yaml"}, "b.yaml -> c.yaml -> b.yaml is a circle"),
        ({"a": "base: ../none.yaml"}, "none.yaml' does not exist"),
        ({"a": "base: [b.yaml]"}, "must be the name of a recipe"),
        ({"a": "base: ${oc.env:HOME}"}, "must be the name of a recipe"),
    ],
)
def test_a_wrong_base_is_one_clear_error(tmp_path, files, message):
    with pytest.raises(InputError) as error:
        load_recipe(write(tmp_path, **files))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_overlay_comes_after_the_recipe_and_before_the_command_line(tmp_path):
    path = RECIPES / "v1_5" / "train" / "video_1.yaml"
    overlay = write(tmp_path, overlay="run: {steps: 3, seed: 4}\ntransformer: {num_heads: 2}")
    recipe = load_recipe(path, ["run.seed=5"], overlay)
    assert (recipe.run.steps, recipe.run.seed, recipe.transformer["num_heads"]) == (3, 5, 2)
    assert recipe.transformer["head_dim"] == 128
    with pytest.raises(InputError, match="unknown key optimiser"):
        load_recipe(path, overlay=write(tmp_path, wrong="optimiser: {lr: 1}"))


@pytest.mark.parametrize("line, name", [("v1_5", "image_4"), ("v1_5", "video_4"), ("v1_3", "i2v_1_1")])
def test_the_printed_recipe_is_the_recipe(line, name, tmp_path, capsys):
    path = RECIPES / line / "train" / f"{name}.yaml"
    assert cli.main(["train", str(path), "--print", "run.seed=3"]) == 0
    (tmp_path / "whole.yaml").write_text(text := capsys.readouterr().out)
    recipe = load_recipe(tmp_path / "whole.yaml")
    assert recipe == load_recipe(path, ["run.seed=3"]) and written(recipe) == text and "base:" not in text


@pytest.mark.parametrize("line, name", STAGES)
def test_cards_and_clips_make_the_published_batch(line, name):
    recipe = stage(line, name)
    assert recipe.layout.data_ranks * recipe.data.batch * recipe.optimizer.accumulate == recipe.layout.batch


@pytest.mark.parametrize("line", LINES)
def test_each_stage_starts_from_the_one_before(line):
    recipes = [stage(line, name) for name in LINES[line]]
    assert recipes[0].run.init is None
    for before, after in pairwise(recipes):
        assert after.run.init == before.run.export
    assert {path.stem for path in (RECIPES / line / "train").glob("*_*.yaml")} == {*LINES[line]}


def test_what_the_report_says_of_v1_5():
    """Stage: frames, size or pixels, learning rate, batch, steps, cards, tensor parallel (training.md, section 10)."""
    table = {
        "image_1": (1, 256**2, 1e-4, 8192, 225_000, 512, 1),
        "image_2": (1, 384**2, 1e-4, 6144, 150_000, 384, 1),
        "image_3": (1, (288, 512), 1e-4, 4096, 110_000, 256, 1),
        "image_4": (1, (288, 512), 1e-4, 4096, 160_000, 256, 1),
        "video_1": (57, (288, 512), 6e-5, 1024, 40_000, 512, 2),
        "video_2": (57, (288, 512), 6e-5, 1024, 45_000, 512, 2),
        "video_3": (121, (288, 512), 4e-5, 1024, 25_000, 512, 4),
        "video_4": (121, (576, 1024), 2e-5, 512, 25_000, 512, 4),
        "video_5": (121, (576, 1024), 1e-5, 512, 5_000, 512, 4),
    }
    for name, row in table.items():
        r = stage("v1_5", name)
        shape = r.data.size or r.data.max_pixels
        assert (r.data.frames, shape, r.optimizer.lr, r.layout.batch, r.run.steps) == row[:5], name
        assert (r.layout.cards, r.layout.tensor_parallel) == row[5:], name
        assert r.optimizer.betas == (0.9, 0.999) and r.optimizer.eps == 1e-15 and r.optimizer.weight_decay == 1e-4
        dense = name in ("image_1", "image_2", "image_3")
        assert r.transformer.get("skip_connection", True) == (not dense), name
        assert (max(r.transformer["sparse_n"]) == 1) == dense, name
    assert [stage("v1_5", "video_2").data.fps, stage("v1_5", "video_1").data.fps] == [12, 24]
    rates = [stage("v1_5", "video_4").optimizer.lr_at(step, 25_000) for step in (0, 15_999, 16_000, 24_999)]
    assert rates == [2e-5, 2e-5, 1e-5, 1e-5]


def test_what_the_report_says_of_v1_3():
    table = {"t2v_1": (2e-5, 100_000), "t2v_2": (2e-5, 300_000), "t2v_3": (1e-5, 30_000)}
    for name, row in table.items():
        r = stage("v1_3", name)
        assert (r.optimizer.lr, r.run.steps, r.layout.batch, r.scheduler["snr_gamma"]) == (*row, 1024, 5.0)
    masks = {  # T2V, continuation, random, clear, I2V, transition; least share of given frames; million samples
        "i2v_1_1": (10, 40, 40, 10, 0, 0, 0.5, 4),
        "i2v_1_2": (10, 40, 40, 10, 0, 0, 0.25, 4),
        "i2v_1_3": (10, 40, 40, 10, 0, 0, 0.125, 4),
        "i2v_1_4": (10, 25, 60, 5, 0, 0, 0.125, 4),
        "i2v_1_5": (10, 25, 60, 5, 0, 0, 0, 8),
        "i2v_1_6": (10, 10, 20, 0, 40, 20, 0, 16),
        "i2v_1_7": (5, 5, 10, 0, 40, 40, 0, 10),
        "i2v_2": (5, 5, 10, 0, 40, 40, 0, 15),
    }
    tasks = ("t2iv", "continuation", "random_temporal", "clear", "i2v", "transition")
    for name, row in masks.items():
        r = stage("v1_3", name)
        assert tuple(r.masks.tasks.get(task, 0) for task in tasks) == row[:6], name
        assert (r.masks.min_clear, r.run.steps) == (row[6], row[7] * 1_000_000 // 256), name
        assert r.data.max_pixels == (236_544 if name == "i2v_2" else 102_400) and r.optimizer.lr == 1e-5


@pytest.mark.parametrize(
    "override, message",
    [
        ("layout.cards=510", "layout.cards = 510: must be a multiple of 4"),
        ("layout.zero=3", "layout.zero = 3: must be 1 or 2"),
        ("layout.card=3", "unknown key layout.card: did you mean layout.cards?"),
        ("data.size=[100,100]", "data.size = 100: must be a multiple of 16; nearest legal: 96"),
        ("model=SUW", "model = 'SUW': must be one of SUV"),
        ("model=OpenSoraInpaint", "masks = None: OpenSoraInpaint takes frames: give masks.tasks"),
        ("masks.tasks.i2v=1", "masks = given: SUV takes text alone: leave out masks.tasks"),
        ("masks.task.i2v=1", "unknown key masks.task: did you mean masks.tasks?"),
    ],
)
def test_bad_values_of_a_stage_are_one_clear_error(override, message):
    with pytest.raises(InputError) as error:
        stage("v1_5", "video_4", override)
    assert message in str(error.value) and "\n" not in str(error.value)
