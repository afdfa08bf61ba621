"""The plan of a training: counted numbers against the models' own counts, and the layout's arithmetic."""

import json
from functools import cache
from pathlib import Path

import pytest

from mindsora import cli
from mindsora.audit.devices import DEVICES
from mindsora.audit.plan_training import plan_training
from mindsora.errors import InputError
from mindsora.train.recipe import load_stage

RECIPES = Path(__file__).parents[1] / "recipes"
STAGES = sorted((RECIPES / "v1_5" / "train").glob("*_?.yaml")) + sorted((RECIPES / "v1_3" / "train").glob("*_?.yaml"))


@cache
def planned(stage: str, *overrides: str) -> dict:
    return plan_training(load_stage(RECIPES / f"{stage}.yaml", overrides), "910b2")


def test_the_last_stage_of_v1_5():
    """The operations of one forward pass are upstream's, counted independently (see test_plan.py): 490.8 TFLOP, of which
    the last block's text, which this recipe does not keep, is 0.1."""
    found = planned("v1_5/train/video_4")
    (shape,) = found["shapes"]
    assert shape["tokens"] == 16 * 36 * 64 and found["tokens_per_step"] == 512 * shape["tokens"]
    assert shape["flops"]["denoiser"] == pytest.approx(4 * 490.7e12, rel=5e-4)  # forward, backward twice, recomputation
    assert shape["flops"]["vae_encode"] == pytest.approx(63.3e12, rel=1e-3)  # as test_plan.py has it
    assert found["parameters"] == pytest.approx(8.5e9, rel=5e-3)
    assert (
        found["layout"]["data_ranks"] == 128 and found["flops_per_step"]["denoiser"] == 512 * shape["flops"]["denoiser"]
    )
    parts = found["memory"]["parts"]
    assert found["memory"]["total"] == sum(parts.values())
    assert parts["gradients"] == 2 * parts["weights"]  # float32 and bfloat16
    assert parts["optimizer_and_ema"] == pytest.approx(8 * parts["weights"] / 128, rel=1e-6)  # shared by 128 data ranks
    # All but the small layers that every rank holds whole divides by 4.
    assert 1 < parts["weights"] / (2 * found["parameters"] / 4) < 1.05


@pytest.mark.full
def test_more_sharing_takes_less_memory_and_the_fewest_cards_hold_the_run():
    found, whole = planned("v1_5/train/video_4"), planned("v1_5/train/video_4", "layout.tensor_parallel=1")
    assert found["memory"]["total"] < whole["memory"]["total"]
    zero_2 = planned("v1_5/train/video_4", "layout.zero=2")["memory"]["parts"]
    assert zero_2["gradients"] == found["memory"]["parts"]["gradients"] // 128
    fewest = found["memory"]["fewest_cards"]
    at_fewest, below = (planned("v1_5/train/video_4", f"layout.cards={n}")["memory"] for n in (fewest, fewest // 2))
    assert at_fewest["total"] <= DEVICES["910b2"].memory < below["total"]


@pytest.mark.full
def test_five_buckets_of_pictures():
    shapes = planned("v1_5/train/image_1")["shapes"]
    assert [(shape["height"], shape["width"], shape["tokens"]) for shape in shapes] == [
        (144, 256, 144), (192, 256, 192), (256, 256, 256), (256, 192, 192), (256, 144, 144),
    ]  # fmt: skip
    # The dense model has no skip projections: six of (2 C + 1) C.
    dense, sparse = (planned(f"v1_5/train/{name}")["parameters"] for name in ("image_3", "image_4"))
    assert sparse - dense == 6 * (2 * 3072 + 1) * 3072


@pytest.mark.full
def test_inpainting_encodes_two_clips():
    t2v = planned("v1_3/train/t2v_3", "data.size=[480,480]")["shapes"][0]["flops"]
    i2v = planned("v1_3/train/i2v_2", "data.max_pixels=230400")["shapes"][0]["flops"]
    assert i2v["vae_encode"] == 2 * t2v["vae_encode"] and i2v["text_encoders"] == t2v["text_encoders"]


@pytest.mark.full
@pytest.mark.parametrize("path", STAGES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_stage_has_a_plan(path, capsys):
    assert cli.main(["plan", "--train", str(path), "--json", "--device", "910B1"]) == 0
    found = json.loads(capsys.readouterr().out)
    # The published layout fits the cards that trained it.
    assert (
        found["memory"]["total"] < found["memory"]["card"]
        and found["memory"]["fewest_cards"] <= found["layout"]["cards"]
    )


def test_a_plan_as_text(capsys):
    assert cli.main(["plan", "--train", str(RECIPES / "v1_5" / "train" / "video_3.yaml")]) == 0
    text = capsys.readouterr().out
    assert "SUV, 8.50 B parameters; 25,000 steps of 1,024 clips" in text and "910b2" in text
    assert text.count("model, not a measurement") == 2 and "this layout holds the run on" in text


@pytest.mark.parametrize("device, message", [("cpu", "a training plan is for one of 910b1"), ("910c", "device '910c'")])
def test_a_plan_is_for_a_card(device, message):
    with pytest.raises(InputError, match=message):
        plan_training(load_stage(RECIPES / "v1_5/train/video_1.yaml"), device)


def test_only_stages_have_a_training_plan(capsys):
    assert cli.main(["plan", "--train", str(RECIPES / "nano" / "vae.yaml")]) == 2
    assert "task 'vae': must be 'stage'" in capsys.readouterr().err
