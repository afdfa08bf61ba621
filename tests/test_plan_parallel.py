"""The planner of several cards: layouts of the released model, and what it refuses. (Bytes: test_parallel_models.py.)"""

import json

import pytest

from mindsora import cli
from mindsora.audit.devices import DEVICES, GIB
from mindsora.audit.plan_parallel import SHOWN, plan_parallel
from mindsora.audit.plan_training import plan_training
from mindsora.errors import InputError
from mindsora.train.recipe import load_stage

pytestmark = pytest.mark.full

RELEASED = {"name_or_dir": "v1.5", "size": (121, 576, 1024), "device": "910b2"}
LAST_STAGE = "recipes/v1_5/train/video_5.yaml"
PARAMETERS = 8_589_604_992  # `SparseUMMDiT` of Open-Sora Plan v1.5.0 in the layout of tensor-parallel training


@pytest.mark.parametrize("layout", ["cp=8", "cfg=2,cp=4"])
def test_the_released_model_fits_eight_cards(layout):
    (row,) = plan_parallel(layout, None, **RELEASED)["parallel"]
    assert row["layout"] == layout and row["fits"] and row["peak"] < 64 * GIB
    assert row["memory"]["transformer"]["weights"] == 2 * PARAMETERS  # bfloat16, whole on every card


def test_the_search_finds_the_layouts_of_eight_cards(capsys):
    assert (
        cli.main(["plan", "--model", "v1.5", "--device", "910b2", "--parallel", "auto", "--cards", "8", "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)["parallel"]
    assert {row["layout"] for row in rows} >= {"cp=8", "cfg=2,cp=4", "cp=4,tp=2", "cfg=2,tp=4", "tp=8"}
    assert len(rows) >= SHOWN and [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    by_layout = {row["layout"]: row for row in rows}
    # Guidance in halves sends less than tokens in eight parts, and tensor parallelism holds fewer weights.
    assert by_layout["cfg=2,cp=4"]["bytes"] < by_layout["cp=8"]["bytes"] < by_layout["tp=8"]["bytes"]
    assert (
        by_layout["tp=8"]["memory"]["transformer"]["weights"]
        < by_layout["cp=8"]["memory"]["transformer"]["weights"] / 4
    )


@pytest.mark.parametrize(
    "parallel, cards, reason",
    [
        ("auto", 7, "no layout"),
        ("auto", None, "needs the number of cards"),
        ("cp=8", 8, "has its own"),
        ("cp=5", None, "num_heads 24 must divide by tp x cp = 5; nearest legal product: 4"),
        ("cfg=3", None, "guidance has two halves"),
    ],
)
def test_what_does_not_divide_is_refused(parallel, cards, reason):
    with pytest.raises(InputError, match=reason):
        plan_parallel(parallel, cards, **RELEASED)


@pytest.mark.parametrize("parallel", ["dp=2,tp=4,zero=1", "dp=2,cp=4,zero=3"])
def test_training_of_the_released_model_fits_eight_cards(parallel):
    found = plan_training(load_stage(LAST_STAGE), "910b2", parallel)
    memory = found["memory"]
    assert found["layout"]["cards"] == 8 and memory["total"] <= DEVICES["910b2"].memory
    if "zero=3" in parallel:  # masters, two moments and the average in float32, on all eight cards
        assert memory["parts"]["optimizer_and_ema"] == pytest.approx(16 * PARAMETERS / 8, rel=0.02)
