"""AdamW, moving average and adaptive clipping of Open-Sora Plan v1.5.0's Megatron branch against traces of them."""

import json
import math

import mindspore as ms
import numpy as np
import pytest
from golden_file import FOLDER
from mindspore import Parameter, ParameterTuple, Tensor

from mindsora.train.clip import AdaptiveClip
from mindsora.train.ema import Ema, ema_decay
from mindsora.train.optimizer import AdamW

CLIP = json.loads((FOLDER / "train_grad_clip.json").read_text())["v15"]["cases"]
EMA = [
    case
    for case in json.loads((FOLDER / "train_ema.json").read_text())["cases"]
    if case["kind"] == "v15_fused_adamw_ema"
]


def scalar(value) -> Tensor:
    return Tensor(value, ms.float32)


def compiled(cell, graph: bool):
    return ms.jit(cell) if graph else cell


@pytest.mark.parametrize("graph", [False, True], ids=["pynative", "graph"])
@pytest.mark.parametrize("case", CLIP, ids=[case["name"] for case in CLIP])
def test_adaptive_clip_follows_upstream(case, graph):
    clip = AdaptiveClip(case["decay"])
    rule = compiled(clip, graph)
    for norm, row in zip(case["norms"], case["rows"]):  # rows end at the first extreme step
        norm, row = float(norm), [float(value) for value in row]
        factor, threshold, extreme = rule(scalar(norm))
        golden_threshold, mean, variance, _, norm_after, is_extreme, _ = row
        assert bool(extreme) == bool(is_extreme)
        # float32 state over up to 200 steps: a few roundings of 6e-8 each, relative to values of about 1.
        np.testing.assert_allclose(
            [clip.mean.asnumpy(), clip.variance.asnumpy()], [mean, variance], rtol=2e-6, atol=2e-7
        )
        if not is_extreme:
            np.testing.assert_allclose(
                [float(threshold), norm * float(factor)], [golden_threshold, norm_after], rtol=2e-6
            )
    assert int(clip.skipped.asnumpy()) == sum(row[5] for row in case["rows"])


def test_clip_cases_cover_every_branch():
    names = {case["name"] for case in CLIP}
    assert names == {"decay_with_spikes", "large_first_step", "tiny_first_step_lock_in", "extreme", "nan", "decay_0p9"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_without_decay_only_not_finite_is_extreme(run, bad):
    clip = AdaptiveClip(None)
    factor, _, extreme = run(clip, scalar(1e6))
    assert float(factor) == 1 and not bool(extreme)
    assert bool(run(clip, scalar(bad))[2]) and int(clip.skipped.asnumpy()) == 1


def test_not_finite_first_norm_leaves_no_state(run):
    clip = AdaptiveClip(0.99)
    assert bool(run(clip, scalar(math.nan))[2])
    assert float(run(clip, scalar(0.1))[1]) == pytest.approx(0.3)  # still the rule of the first step


@pytest.mark.parametrize("graph", [False, True], ids=["pynative", "graph"])
@pytest.mark.parametrize("case", EMA, ids=["warm-up" if case["params"]["warmup"] else "constant decay" for case in EMA])
def test_adamw_and_ema_match_the_fused_operator(case, graph):
    params = case["params"]
    weights = ParameterTuple([Parameter(Tensor(np.full((2, 3), case["w0"], np.float32)), name="w")])
    adamw = compiled(AdamW(weights, params["betas"], params["eps"], params["weight_decay"]), graph)
    average = Ema(weights, params["ema_decay"], params["warmup"])
    update = compiled(average, graph)
    for i, (gradient, (decay, weight, mean)) in enumerate(zip(case["grads"], case["rows"], strict=True), 1):
        gradients = (Tensor(np.full((2, 3), 2 * gradient, np.float32)),)
        n = adamw(scalar(params["lr"]), scalar(0.5), Tensor(False), gradients)
        update(n, Tensor(False))
        assert float(n) == i
        expected = ema_decay(params["ema_decay"], n) if params["warmup"] else params["ema_decay"]
        assert float(expected) == pytest.approx(decay, rel=1e-6)
        # float64 reference; weights of about 0.5 in float32 drift by half a unit (3e-8) a step.
        np.testing.assert_allclose(weights[0].asnumpy(), np.full((2, 3), weight), rtol=0, atol=1e-6)
        np.testing.assert_allclose(average.averages[0].asnumpy(), np.full((2, 3), mean), rtol=0, atol=1e-6)
