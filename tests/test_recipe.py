"""Recipes: legal keys are read; everything else is one clear error."""

import runpy
from pathlib import Path

import pytest

from mindsora.errors import InputError
from mindsora.train.recipe import DenoiserRecipe, OptimizerConfig, VAERecipe, fingerprint, load_recipe

ROOT = Path(__file__).parents[1]
SMALL = """
task: vae
model: {base_channels: 8}
data: {clips: 100, batch: 4}
optimizer: {lr: 6e-4, warmup: 60, decay_from: 0.5}
run: {steps: 1000, out: out, export: export}
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name, cls", [("vae", VAERecipe), ("denoiser", DenoiserRecipe)])
def test_the_nano_recipes_load(name, cls):
    assert isinstance(load_recipe(ROOT / "recipes" / "nano" / f"{name}.yaml"), cls)


def test_values_types_and_overrides(small):
    recipe = load_recipe(small, ["optimizer.betas=[0.5,0.9]", "optimizer.clip_decay=null", "model.latent_dim=4"])
    assert recipe.optimizer.lr == 6e-4  # plain YAML 1.1 reads 6e-4 as a string
    assert recipe.optimizer.betas == (0.5, 0.9) and recipe.optimizer.clip_decay is None
    assert recipe.model == {"base_channels": 8, "latent_dim": 4} and recipe.loss.l1 == 1


@pytest.mark.parametrize(
    "override, message",
    [
        ("optimiser.lr=3", "unknown key optimiser: did you mean optimizer?"),
        ("optimizer.beta=3", "unknown key optimizer.beta: did you mean optimizer.betas?"),
        ("data.bach=3", "unknown key data.bach: did you mean data.batch?"),
        ("run.zzz=3", "unknown key run.zzz: known here: steps"),
        ("run.x\x07=3", "unknown key run.x\\x07: known here: steps"),
        ("run.steps=abc", "run.steps: Value 'abc'"),
        ("run.steps=0", "run.steps = 0: must be at least 1"),
        ("optimizer.lr=-1", "optimizer.lr = -1.0: must be positive"),
        ("optimizer.lr=.inf", "optimizer.lr = inf: must be finite"),
        ("optimizer.lr=1e39", "optimizer.lr = 1e+39: must be finite, and below 3.4e+38"),
        ("optimizer.lr=.nan", "optimizer.lr = nan: must be finite"),
        ("optimizer.betas=[.nan,0.9]", "optimizer.betas = nan: must be finite"),
        ("optimizer.eps=0", "optimizer.eps = 0.0: must be positive"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay = -1.0: must not be negative"),
        ("loss.kl=.inf", "loss.kl = inf: must be finite"),
        ("loss.l1=-1", "loss.l1 = -1.0: must not be negative"),
        ("log_variance_bias=.nan", "log_variance_bias = nan: must be finite"),
        ("run.export=''", "run.export = '': must name a folder"),
        ("run.out=${oc.env:HOME}", "run.out = '${oc.env:HOME}': write the value itself"),
        ("task=${oc.env:HOME}", "task '${oc.env:HOME}': choose from"),
        ("optimizer.clip_decay=1", "optimizer.clip_decay = 1.0: must lie in (0, 1), or be null"),
        ("optimizer.clip=hard", "optimizer.clip = hard: must be one of adaptive, batch_drop, norm"),
        ("optimizer.accumulate=0", "optimizer.accumulate = 0: must be at least 1"),
        ("optimizer.ema_schedule=v2", "optimizer.ema_schedule = v2: must be one of v1_5, v1_3, constant"),
        ("run.precision=bf16", "run.precision = bf16: must be one of float32, float16, bfloat16"),
        ("run.precision=float16", "run.precision = float16: an autoencoder trains in float32"),
        ("run.recompute=2", "run.recompute = 2: an autoencoder has no blocks; use 0"),
        ("data.crop_size=80", "data.crop_size = 80: must lie in 1..data.size (64)"),
        ("data.batch=200", "data.batch = 200: must lie in 1..data.clips (100)"),
        ("data=3", "data: Invalid type"),
        ("task=vea", "task 'vea': choose from vae, denoiser"),
        ("steps", "override 'steps': write section.key=value"),
    ],
)
def test_bad_values_are_one_clear_error(small, override, message):
    with pytest.raises(InputError) as error:
        load_recipe(small, [override])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("task: [", "is not YAML"),
        ("[1, 2]", "must hold `key: value` lines"),
        ("", "task None"),
        ("task: vae", "missing mandatory value: model"),
        (SMALL.replace("steps: 1000, ", ""), "missing mandatory value: steps"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_recipe(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_module_is_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", str(tmp_path / "none.yaml"), "--device", "CPU"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("mindsora.train", run_name="__main__")
    assert "none.yaml' does not exist" in capsys.readouterr().err


def test_fingerprint_pins_model_data_loss_and_seed(small):
    base = fingerprint(load_recipe(small))
    for same in ("run.steps=5", "optimizer.lr=1", "run.out=elsewhere", "data.batch=8", "optimizer.accumulate=2"):
        assert fingerprint(load_recipe(small, [same])) == base
    for other in ("run.seed=1", "model.base_channels=16", "data.crop_frames=9", "loss.mse=1"):
        assert fingerprint(load_recipe(small, [other])) != base


def test_learning_rate_warms_up_then_falls_to_zero():
    config = OptimizerConfig(lr=2.0, warmup=4, decay_from=0.5)
    rates = [config.lr_at(step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4])
    assert {OptimizerConfig(lr=2.0).lr_at(step, 10) for step in range(10)} == {2.0}
