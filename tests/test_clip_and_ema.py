"""AdamW, moving average and adaptive clipping of Open-Sora Plan v1.5.0's Megatron branch against traces of them."""

import json
import math
from functools import partial

import mindspore as ms
import numpy as np
import pytest
from golden_file import FOLDER
from mindspore import Parameter, ParameterTuple, Tensor

from mindsora.train.clip import AdaptiveClip, BatchDrop, NormClip, clip_of
from mindsora.train.ema import Ema, decay_v1_3
from mindsora.train.optimizer import AdamW
from mindsora.train.recipe import OptimizerConfig

GOLDEN = json.loads((FOLDER / "train_grad_clip.json").read_text())
CLIP, DROP = GOLDEN["v15"]["cases"], GOLDEN["drop_ds"]
EMA = json.loads((FOLDER / "train_ema.json").read_text())["cases"]
FUSED = [case for case in EMA if case["kind"] == "v15_fused_adamw_ema"]
V1_3 = [case for case in EMA if case["kind"] == "v13"]


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


def test_a_low_first_norm_holds_the_threshold_down_unless_the_rule_may_start_anew(run):
    """Upstream's case `tiny_first_step_lock_in`: 0.01, then 0.05 for ever, is scaled back to 0.03 for ever."""
    for escape, last in ((0, 0.03), (5, 0.05)):
        clip = AdaptiveClip(0.99, escape)
        for norm in [0.01] + 12 * [0.05]:
            factor, _, _ = run(clip, scalar(norm))
        assert norm * float(factor) == pytest.approx(last, rel=1e-4)
        assert int(clip.clipped.asnumpy()) == (escape or 12)


def test_batch_drop_follows_upstream(run):
    """Trace of four ranks, with one and with two ranks dropped. Rows are float32 values of upstream."""
    drop = BatchDrop(DROP["decay"])
    for norms, row, after in zip(DROP["norms"], DROP["rows"], DROP["final_norm_per_rank"], strict=True):
        first = float(drop.mean.asnumpy()) < 0
        factors, threshold, skip = run(drop, Tensor(norms, ms.float32))
        golden_threshold, mean, variance, kept_share, dropped, _, _ = row
        assert not bool(skip) and (factors.asnumpy() == 0).sum() == dropped
        np.testing.assert_allclose(factors.asnumpy().max(), 1 / kept_share, rtol=1e-6)
        np.testing.assert_allclose(factors.asnumpy() * np.float32(norms), after, rtol=1e-6)
        # up to 30 roundings of float32
        np.testing.assert_allclose([drop.mean.asnumpy(), drop.variance.asnumpy()], [mean, variance], rtol=2e-6)
        assert first or float(threshold) == pytest.approx(golden_threshold, rel=2e-6)
    assert int(drop.dropped.asnumpy()) == 3 and int(drop.skipped.asnumpy()) == 0


def test_a_batch_that_every_rank_drops_skips_the_step(run):
    drop = BatchDrop(0.99)
    assert bool(run(drop, Tensor([math.nan, math.inf], ms.float32))[2]) and float(drop.mean.asnumpy()) < 0  # no state
    run(drop, Tensor([0.1, 0.2], ms.float32))
    before = drop.mean.asnumpy().tobytes()
    factors, _, skip = run(drop, Tensor([50.0, math.nan], ms.float32))
    assert bool(skip) and not factors.asnumpy().any() and drop.mean.asnumpy().tobytes() == before
    assert int(drop.skipped.asnumpy()) == 2 and int(drop.dropped.asnumpy()) == 4


def test_one_rank_that_drops_its_batch_skips_the_step(run):
    rule = clip_of(OptimizerConfig(lr=1.0, clip="batch_drop"))
    assert [bool(run(rule, scalar(norm))[2]) for norm in (0.2, 0.3, 9.0, 0.1)] == [False, False, True, False]
    assert int(rule.skipped.asnumpy()) == 1


def test_norm_clip_scales_larger_norms_back_and_skips_what_is_not_finite(run):
    rule = clip_of(OptimizerConfig(lr=1.0, clip="norm", clip_norm=2.0))
    assert isinstance(rule, NormClip)
    for norm, factor in ((0.5, 1.0), (8.0, 0.25)):
        assert float(run(rule, scalar(norm))[0]) == pytest.approx(factor, rel=1e-6)
    assert bool(run(rule, scalar(math.nan))[2]) and int(rule.skipped.asnumpy()) == 1


@pytest.mark.parametrize("graph", [False, True], ids=["pynative", "graph"])
@pytest.mark.parametrize("case", FUSED, ids=["v1_5", "constant"])
def test_adamw_and_ema_match_the_fused_operator(case, graph):
    """Without warm-up the decay is constant, as the autoencoder's is."""
    params, schedule = case["params"], "v1_5" if case["params"]["warmup"] else "constant"
    weights = ParameterTuple([Parameter(Tensor(np.full((2, 3), case["w0"], np.float32)), name="w")])
    adamw = compiled(AdamW(weights, params["betas"], params["eps"], params["weight_decay"]), graph)
    average = Ema(weights, params["ema_decay"], schedule)
    update = compiled(average, graph)
    for i, (gradient, (decay, weight, mean)) in enumerate(zip(case["grads"], case["rows"], strict=True), 1):
        gradients = (Tensor(np.full((2, 3), 2 * gradient, np.float32)),)
        n = adamw(scalar(params["lr"]), scalar(0.5), Tensor(False), gradients)
        update(n, Tensor(False))
        assert float(n) == i and float(average.schedule(params["ema_decay"], n)) == pytest.approx(decay, rel=1e-6)
        # float64 reference; weights of about 0.5 in float32 drift by half a unit (3e-8) a step.
        np.testing.assert_allclose(weights[0].asnumpy(), np.full((2, 3), weight), rtol=0, atol=1e-6)
        np.testing.assert_allclose(average.averages[0].asnumpy(), np.full((2, 3), mean), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", V1_3, ids=["plain", "start", "power"])
def test_the_average_of_v1_3_follows_upstream(case, run):
    params = case["params"]
    start, least = params["update_after_step"], params.get("min_decay", 0.0)
    power = params["power"] if params.get("use_ema_warmup") else None
    weight = Parameter(Tensor(np.full(3, case["weights"][0], np.float32)), name="w")
    average = Ema(ParameterTuple([weight]), params["decay"])
    average.schedule = partial(decay_v1_3, start=start, power=power, least=least)
    for n, (value, (decay, mean)) in enumerate(zip(case["weights"][1:], case["rows"], strict=True), 1):
        weight.set_data(Tensor(np.full(3, value, np.float32)))
        average(scalar(n), Tensor(False))
        np.testing.assert_allclose(average.averages[0].asnumpy(), mean, rtol=0, atol=1e-6)  # float64 reference
        used = run(decay_v1_3, params["decay"], scalar(n), start, power, least) if n == 9 else None
        assert used is None or float(used) == pytest.approx(decay, rel=1e-6)
