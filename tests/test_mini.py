"""The regression suite on nano: what held when its receipt was written still holds.

Of time nothing is asserted, because it depends on the machine; the report has it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mindsora.data.toy.procedural import Thing, render
from mindsora.evaluate import mini
from mindsora.evaluate.items import read_items
from mindsora.evaluate.measures import Clip

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_committed_items_are_the_drawn_ones():
    assert json.loads(mini.ITEMS.read_text()) == mini.frozen_items()
    assert len(read_items(mini.ITEMS)) == 48


@pytest.mark.parametrize(
    "spoil, falls",
    [
        (lambda video: video, set()),
        (lambda video: np.full_like(video, 90), {"alive", "moves", "shape", "colour", "motion"}),
        (lambda video: np.repeat(video[:1], len(video), axis=0), {"moves", "motion"}),
        (lambda video: video * np.array([1, 0], np.uint8)[np.arange(17) % 2, None, None, None], {"steady"}),
    ],
    ids=["true", "even", "frozen", "flickering"],
)
def test_each_check_falls_where_it_should(spoil, falls):
    item = next(item for item in read_items(mini.ITEMS) if item.facts["thing"]["motion"] == "left")
    video = render((Thing(**item.facts["thing"]),), "white", np.random.RandomState(0))
    values = mini.judged(Clip(item, spoil(video)))
    names = set(mini.EVALUATION.thresholds) - {"length"}  # which needs a manifest
    low = {name for name in names if values[name] == 0}
    assert falls <= low
    assert low <= falls | {"shape", "colour", "motion"}  # black frames hide the object too


@pytest.mark.slow
def test_nano_holds_what_its_receipt_says(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mini as benchmark

    kept = json.loads((BENCHMARKS / "results/mini_nano.json").read_text())
    now = benchmark.measured(tmp_path)
    assert now["complete"] and now["reached"] and all(now["again"])
    for name in ("alive", "moves", "steady", "length"):
        assert now["scores"][name] == 1
    for name in ("shape", "colour", "motion"):  # two clips of 48: other processors round otherwise
        assert now["scores"][name] >= kept["scores"][name] - 2 / 48
    assert now["scores"]["lowest_flicker"] >= 0.90
    assert now["scores"]["peak_memory"] <= 1.5 * kept["scores"]["peak_memory"]
    assert now["loss"]["trained"] == pytest.approx(kept["loss"]["trained"], rel=0.01)
    assert now["loss"]["trained"] < 0.5 * now["loss"]["random"]
