"""v-prediction of v1.3, sampling and objective, against diffusers' numbers: within 1e-6 of the largest reference value
(float32 rounding). Where the last places of a float32 table decide, as in the trajectory, the test states its tolerance.
"""

import json
import math

import mindspore as ms
import numpy as np
import pytest
from golden_file import FOLDER, Golden
from mindspore import Tensor, ops
from test_flow_matching import assert_near

from mindsora.errors import InputError
from mindsora.sampling import FlowMatchScheduler, VPredictionScheduler, euler, euler_ancestral, guide
from mindsora.train.objectives import VPrediction

GOLDEN = Golden("scheduler_v13")
LOSSES = json.loads((FOLDER / "train_losses.json").read_text())["v13"]
LEADING = VPredictionScheduler(rescale_betas_zero_snr=False, timestep_spacing="leading")
DIFFUSERS = {  # as written by diffusers
    "_class_name": "EulerAncestralDiscreteScheduler",
    "_diffusers_version": "0.30.0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}


@pytest.mark.parametrize(
    "scheduler, steps, suffix",
    [
        (VPredictionScheduler(), 10, ""),
        (VPredictionScheduler(), 30, "_30"),
        (VPredictionScheduler(), 50, "_50"),
        (VPredictionScheduler(), 100, "_100"),
        (LEADING, 50, "_50_leading_no_zsnr"),
    ],
    ids=["10", "30", "50", "100", "leading"],
)
def test_sampling_levels(scheduler, steps, suffix):
    timesteps, sigmas = scheduler.timesteps(steps), scheduler.sigmas(steps)
    assert timesteps.dtype == sigmas.dtype == np.float32
    np.testing.assert_array_equal(timesteps, GOLDEN.outputs["timesteps" + suffix])
    assert_near(sigmas, GOLDEN.outputs["sigmas" + suffix])
    # The largest is 4096; the limit for the small ones, which form the picture, is the rounding of the float32 table. Two
    # units in the last place of abar, 1.2e-7, are 6e-5 of the 1 - abar at step 9, and half of that of its sigma.
    np.testing.assert_allclose(sigmas, GOLDEN.outputs["sigmas" + suffix], rtol=3e-5)


def test_start_of_sampling():
    assert_near([VPredictionScheduler().init_noise_sigma(10)], GOLDEN.outputs["init_noise_sigma"])
    assert_near([LEADING.init_noise_sigma(50)], GOLDEN.outputs["init_noise_sigma_leading_no_zsnr"])


def test_table_of_sampling():
    """The schedule is training's, except that the last step keeps a little signal; sigma^2 = 1 / abar - 1 gives abar."""
    sigmas = VPredictionScheduler().sigmas(1000)[-2::-1].astype(np.float64)
    alphas_cumprod = 1 / (sigmas**2 + 1)
    assert_near(alphas_cumprod, GOLDEN.outputs["sample_alphas_cumprod_zero_snr"])
    np.testing.assert_allclose(alphas_cumprod[-1], GOLDEN.outputs["sample_alphas_cumprod_zero_snr"][-1], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 7, 999, 1000])
def test_every_number_of_steps_begins_at_the_end(steps):
    timesteps = VPredictionScheduler().timesteps(steps)
    assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
    assert np.all(np.diff(timesteps) < 0)
    assert VPredictionScheduler().sigmas(steps).shape == (steps + 1,)


class Given:
    """A RandomState whose draws are known."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def standard_normal(self, shape):
        draw = next(self.draws)
        assert draw.shape == tuple(shape)
        return draw


def test_trajectory(run):
    inputs = GOLDEN.inputs
    c = Tensor(inputs["encoder_hidden_states"].mean((1, 2, 3)).reshape(-1, 1, 1, 1, 1))  # negatives, positives
    scale, rescale = (Tensor(GOLDEN.config[key], ms.float32) for key in ("guidance_scale", "guidance_rescale"))
    seen = []

    def model(x, t, c):
        return c * x + 0.4 * ops.sin(2 * x) - 0.2 * (t / 1000)

    def velocity(x, timestep):
        seen.append(x.asnumpy())
        negative, positive = run(model, ops.concat([x, x]), Tensor(timestep, ms.float32), c).chunk(2)
        return run(guide, negative, positive, scale, rescale)

    rng = Given(inputs["step_noise"])
    steps = list(VPredictionScheduler().steps(velocity, Tensor(inputs["latents_unit"]), 10, rng))
    assert [(step.index, step.timestep) for step in steps] == list(enumerate(GOLDEN.outputs["timesteps"]))
    latents = [step.latents.asnumpy() for step in steps]
    # 3e-6 of the largest, not 1e-6: the reference takes sigma_down, a small difference of large numbers, in float32, and
    # its table's last places depend on the processor.
    for ours, name in ((seen, "scaled_model_input"), (latents, "latents_after_step")):
        reference = GOLDEN.outputs[name]
        np.testing.assert_allclose(np.stack(ours), reference, rtol=0, atol=3e-6 * np.abs(reference).max())
    assert next(rng.draws, None) is None  # one draw a step, the last included
    # By the last step the latents are of order 1, against 300 in the first: 1e-5 is what the first leaves of float32.
    np.testing.assert_allclose(latents[-1], GOLDEN.outputs["latents_after_step"][-1], rtol=0, atol=1e-5)


def test_a_known_answer_is_found():
    """With the v of the one correct clip, every step predicts that clip, and the last step returns it."""
    scheduler, rng = VPredictionScheduler(), np.random.RandomState(0)
    x0 = Tensor(rng.standard_normal((1, 2, 3)).astype(np.float32))
    noise = Tensor(rng.standard_normal((1, 2, 3)).astype(np.float32))
    sigmas = dict(zip(scheduler.timesteps(20), scheduler.sigmas(20)))

    def velocity(x, timestep):  # x = (x0 + sigma * e) / sqrt(sigma^2 + 1) gives e, and both give v
        sigma = float(sigmas[timestep])
        scale = (sigma**2 + 1) ** 0.5
        e = (x * scale - x0) / sigma
        return e / scale - x0 * (sigma / scale)

    *_, last = scheduler.steps(velocity, noise, 20, rng)
    np.testing.assert_allclose(last.latents.asnumpy(), x0.asnumpy(), rtol=0, atol=1e-5)


def test_half_precision_steps_run_in_float32():
    """One step from 4096 in float16: the float32 step rounded once; its square alone would overflow float16."""
    x = Tensor(np.array([[0.5, -1.5]], np.float32) * 4096).astype(ms.float16)
    v = Tensor(np.array([[0.25, 0.75]], np.float32))
    steps, sigmas = np.array([999, 899], np.float32)[:1], np.array([4096, 97.06373], np.float32)

    def step(dtype):
        def velocity(x, timestep):
            assert x.dtype == dtype and timestep == 999
            return v.astype(dtype)

        (step,) = euler_ancestral(velocity, x.astype(dtype), steps, sigmas, np.random.RandomState(0))
        return step.latents

    assert step(ms.float16).dtype == ms.float16
    np.testing.assert_array_equal(step(ms.float16).asnumpy(), step(ms.float32).asnumpy().astype(np.float16))


@pytest.mark.parametrize(
    "scheduler", [FlowMatchScheduler(shift=3.0), VPredictionScheduler()], ids=lambda s: type(s).__name__
)
def test_one_call_samples_with_either_scheduler(scheduler):
    """Seed in, clip out; the same seed gives the same clip, and the caller may change the latents of every step."""

    def velocity(x, timestep):
        assert isinstance(timestep, float) and 0 < timestep <= 1000
        times.append(timestep)
        return 0.1 * x

    def sample(seed, change=lambda step: step.latents):
        rng = np.random.RandomState(seed)
        noise = Tensor(rng.standard_normal((1, 2, 1, 2, 2)).astype(np.float32))
        for step in scheduler.steps(velocity, noise, 4, rng):
            seen.append((step.index, step.timestep))
            step.latents = change(step)
        return step.latents.asnumpy()

    times, seen = [], []
    first = sample(5)
    assert np.isfinite(first).all() and len(times) == 4 and times == sorted(times, reverse=True)
    assert seen == list(enumerate(times))
    np.testing.assert_array_equal(first, sample(5))
    assert np.abs(first - sample(6)).max() > 0.01
    np.testing.assert_array_equal(sample(5, lambda step: step.latents * (step.index < 3)), 0 * first)
    assert np.abs(first - sample(5, lambda step: step.latents + (step.index == 1))).max() > 0.01
    if isinstance(scheduler, FlowMatchScheduler):
        noise = Tensor(np.random.RandomState(5).standard_normal((1, 2, 1, 2, 2)).astype(np.float32))
        *_, last = euler(lambda x, timestep: 0.1 * x, noise, scheduler.sigmas(4))
        np.testing.assert_array_equal(first, last.latents.asnumpy())


def functions(objective):
    """The tensor methods as ms.jit takes them: called inside a function, as a training step calls them."""

    def noisy(x0, noise, timestep):
        return objective.add_noise(x0, noise, timestep), objective.target(x0, noise, timestep)

    def weights(timestep):
        return objective.snr(timestep), objective.loss_weights(timestep)

    def loss(prediction, x0, noise, timestep, mask=None):
        return objective.loss(prediction, x0, noise, timestep, mask)

    return noisy, weights, loss


def assert_snr_near(snr, expected):
    """1.5e-6 of the largest, not 1e-6: at step 10 our abar, a float32 table, is one unit in the last place, 6e-8, away
    from torch's, and that is 6e-8 / (1 - abar)^2 of the ratio, 1.2e-6 of the largest. At steps 0 and 1 the two tables
    must be equal: one unit there is 6e-4 and 1.2e-4 of it."""
    np.testing.assert_allclose(snr.asnumpy(), expected, rtol=0, atol=1.5e-6 * np.max(expected))


def test_training(run):
    scheduler = VPredictionScheduler()
    noisy, weights, _ = functions(VPrediction(scheduler))
    x0, noise, timestep = (GOLDEN.tensor(f"train_{name}") for name in ("x0", "noise", "timesteps"))
    assert_near(scheduler.alphas_cumprod(), GOLDEN.outputs["train_alphas_cumprod_zero_snr"])
    x, v = run(noisy, x0, noise, timestep)
    assert_near(x, GOLDEN.outputs["train_noisy"])
    assert_near(v, GOLDEN.outputs["train_velocity"])
    snr, weight = run(weights, timestep)
    assert_snr_near(snr, GOLDEN.outputs["train_snr"])
    assert_near(weight, GOLDEN.outputs["train_min_snr5_weight_v"])


@pytest.mark.parametrize("case", LOSSES, ids=["zero_snr", "plain"])
def test_training_levels(case, run):
    scheduler = VPredictionScheduler(rescale_betas_zero_snr=case["zero_snr"], snr_gamma=case["gamma"])
    noisy, weights, _ = functions(VPrediction(scheduler))
    timestep = Tensor(np.array(case["timesteps"], np.float32))
    x0, noise = (Tensor(np.full((len(case["timesteps"]), 1), case[name], np.float32)) for name in ("x0", "noise"))
    x, v = run(noisy, x0, noise, timestep)
    assert_near(x, case["x_t"])
    assert_near(v, case["velocity"])
    snr, weight = run(weights, timestep)
    assert_near(scheduler.alphas_cumprod()[case["timesteps"]], case["alphas_cumprod"])
    assert_snr_near(snr, case["snr"])
    assert_near(weight, case["weight"])
    assert (float(weight[-1]) == 0) == case["zero_snr"]


@pytest.mark.parametrize("gamma", [5.0, None])
def test_loss(gamma, run):
    """The loss equals its definition in float64, and padding does not count."""
    rng = np.random.RandomState(0)
    prediction, x0, noise = (rng.standard_normal((2, 3, 2, 2, 2)).astype(np.float32) for _ in range(3))
    steps = np.array([100, 700])
    mask = np.ones((2, 2, 2, 2), np.float32)
    mask[1, 1] = 0
    scheduler = VPredictionScheduler(snr_gamma=gamma)
    abar = scheduler.alphas_cumprod().astype(np.float64)[steps]
    snr = abar / (1 - abar)
    weight = np.minimum(snr, gamma) / (snr + 1) if gamma else np.ones(2)
    signal, spread = (np.sqrt(value).reshape(-1, 1, 1, 1, 1) for value in (abar, 1 - abar))
    error = weight.reshape(-1, 1, 1, 1, 1) * (prediction - (signal * noise - spread * x0)) ** 2

    _, _, loss = functions(VPrediction(scheduler))
    arguments = *map(Tensor, (prediction, x0, noise)), Tensor(steps.astype(np.float32))
    assert_near(run(loss, *arguments), error.mean())
    kept = np.concatenate([error[0].ravel(), error[1, :, 0].ravel()])
    assert_near(run(loss, *arguments, Tensor(mask)), kept.mean())


def test_ranks_share_the_steps():
    """Each rank draws from its own stretch, ends included; together they cover all steps evenly."""
    objective, rng = VPrediction(VPredictionScheduler()), np.random.default_rng(0)
    draws = objective.draw(rng, 50_000)
    for rank in range(4):
        steps = objective.timesteps(draws, rank, 4)
        assert steps.dtype == np.float32 and np.array_equal(steps, np.round(steps))
        # -0.5 + 250 rank: both neighbours may be met at the border, upstream's rounding of halves
        assert (
            max(0, 250 * rank - 1) <= steps.min() <= 250 * rank and 250 * rank + 249 <= steps.max() <= 250 * rank + 250
        )
    steps = objective.timesteps(draws)
    assert (steps.min(), steps.max()) == (0, 999)
    assert abs(steps.mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 50_000)  # 4 standard errors
    np.testing.assert_array_equal(objective.timesteps(np.array([0.0, 0.0005, 0.9999999])), [0, 0, 999])


def test_reads_diffusers_configurations():
    assert VPredictionScheduler.from_upstream(DIFFUSERS) == VPredictionScheduler()
    plain = DIFFUSERS | {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    assert VPredictionScheduler.from_upstream(plain) == LEADING
    ddpm = plain | {
        "_class_name": "DDPMScheduler",
        "clip_sample": False,
        "thresholding": False,
        "variance_type": "fixed_small",
        "sample_max_value": 1.0,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
    }
    assert VPredictionScheduler.from_upstream(ddpm) == LEADING
    del ddpm["timestep_spacing"], ddpm["rescale_betas_zero_snr"]  # an older file: diffusers' defaults, not v1.3's
    assert VPredictionScheduler.from_upstream(ddpm) == LEADING
    ours = {"_class_name": "VPredictionScheduler", "snr_gamma": None}
    assert VPredictionScheduler.from_upstream(ours) == VPredictionScheduler(snr_gamma=None)


@pytest.mark.parametrize(
    "config, words",
    [
        (DIFFUSERS | {"prediction_type": "epsilon"}, ["prediction_type = 'epsilon'", "v_prediction"]),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, ["prediction_type = 'epsilon'"]),
        (DIFFUSERS | {"beta_schedule": "scaled_linear"}, ["'scaled_linear'", "'linear'"]),
        (DIFFUSERS | {"trained_betas": [0.1]}, ["trained_betas"]),
        (DIFFUSERS | {"timestep_spacing": "even"}, ["'even'", "trailing or leading or linspace"]),
        (DIFFUSERS | {"_class_name": "PNDMScheduler"}, ["'PNDMScheduler'", "EulerAncestralDiscreteScheduler"]),
        ({"beta_begin": 0.1}, ["'beta_begin'", "'beta_"]),
        ({"num_train_timesteps": 500}, ["500", "1000"]),
        ({"beta_start": 0.1}, ["0.1", "must rise"]),
        ({"steps_offset": 2}, ["steps_offset = 2", "0 or 1"]),
        ({"snr_gamma": 0}, ["snr_gamma = 0", "from 1e-06"]),
    ],
)
def test_bad_configs(config, words):
    with pytest.raises(InputError) as error:
        VPredictionScheduler.from_upstream(config)
    for word in words:
        assert word in str(error.value)


def test_bad_steps():
    for steps in (0, -1, 1001, 2.5):
        with pytest.raises(InputError, match="num_inference_steps"):
            VPredictionScheduler().sigmas(steps)
