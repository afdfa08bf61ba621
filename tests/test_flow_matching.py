"""Flow matching, sampling and objective, against upstream's numbers: within 1e-6 of the largest reference value, which is
float32 rounding.
"""

import json
import math

import mindspore as ms
import numpy as np
import pytest
from golden_file import FOLDER, Golden
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.sampling import FlowMatchScheduler, euler, guide
from mindsora.train.objectives import FlowMatching

SIGMAS = Golden("scheduler_v15_sigmas")
TRAINING = Golden("scheduler_v15_training")
LOSSES = json.loads((FOLDER / "train_losses.json").read_text())
SIZES = {2304: (72, 128), 880: (44, 80), 256: (32, 32)}  # upstream's cases give the token count; 4 latents a token


def assert_near(actual, reference):
    actual = actual.asnumpy() if isinstance(actual, Tensor) else np.asarray(actual)
    reference = np.asarray(reference, np.float64).reshape(actual.shape)
    np.testing.assert_allclose(actual.astype(np.float64), reference, rtol=0, atol=1e-6 * np.abs(reference).max())


@pytest.mark.parametrize("case", SIGMAS.config)
def test_sampling_sigmas(case):
    config = dict(SIGMAS.config[case])
    steps, tokens, inversion = config.pop("steps"), config.pop("image_seq_len"), config.pop("inversion")
    sigmas = FlowMatchScheduler(**config).sigmas(steps, SIZES[tokens] if tokens else None, inversion)
    assert sigmas.dtype == np.float32
    assert_near(sigmas, SIGMAS.outputs[f"sigmas_{case}"])


@pytest.mark.parametrize("steps", [2, 10, 100, 500])
def test_linear_quadratic_grid_size_is_clamped(steps):
    """Written independently from the definition, in Python floats: M = clamp(10 n, 250, 1000), both halves meet."""
    n, fine = steps // 2, min(max(10 * steps, 250), 1000) / 2
    sigmas = FlowMatchScheduler(use_linear_quadratic_schedule=True).sigmas(steps)
    first = [1 - i / (2 * fine) for i in range(n)]
    assert_near(sigmas[:n], first)
    assert sigmas[-1] == 0 and len(sigmas) == steps + 1
    assert np.all(np.diff(sigmas) <= 0)


def functions(objective):
    """The tensor methods under ms.jit: called inside a function, as a training step calls them."""

    def weights(sigma):
        return objective.loss_weights(sigma)

    def add_noise(x0, noise, sigma):
        return objective.add_noise(x0, noise, sigma)

    def loss(prediction, x0, noise, sigma, mask=None):
        return objective.loss(prediction, x0, noise, sigma, mask)

    return weights, add_noise, loss


@pytest.mark.parametrize("name", ["scheduler_v15_trajectory", "scheduler_v15_trajectory_noguidance"])
def test_trajectory(name, run):
    golden = Golden(name)
    config, inputs = golden.config, golden.inputs
    encoder, pooled = inputs["encoder_hidden_states"].mean((1, 2, 3)), inputs["pooled_projections"].mean((1, 2))
    guided = config["guidance_scale"] > 1
    predictions = []

    def model(x, t, c, s):
        return c * x + s * (t / 1000) + 0.3 * ops.sin(2 * x)

    def per_sample(values):
        return Tensor(values.reshape(-1, 1, 1, 1, 1))

    def velocity(x, timestep):
        t = Tensor(timestep, ms.float32)
        if not guided:
            v = run(model, x, t, per_sample(encoder), per_sample(pooled))
        else:
            both = run(model, ops.concat([x, x]), t, per_sample(encoder), per_sample(pooled))
            negative, positive = both.chunk(2)
            v = run(
                guide,
                negative,
                positive,
                Tensor(config["guidance_scale"], ms.float32),
                Tensor(config["guidance_rescale"], ms.float32),
            )
        predictions.append(v.asnumpy())
        return v

    sigmas = FlowMatchScheduler(shift=config["shift"]).sigmas(config["steps"])
    steps = list(euler(velocity, Tensor(inputs["latents"]), sigmas))
    assert_near(sigmas, golden.outputs["sigmas"])
    assert_near(np.stack(predictions), golden.outputs["guided_prediction"])
    assert [(step.index, step.sigma) for step in steps] == list(enumerate(golden.outputs["sigmas"][:-1]))
    assert_near(np.stack([step.latents.asnumpy() for step in steps]), golden.outputs["latents_after_step"])
    assert_near(steps[-1].latents, golden.outputs["final"])


@pytest.mark.parametrize("shift", ["static7", "noshift", "dynamic"])
@pytest.mark.parametrize("weighting", ["logit_normal", "mode", "sigma_sqrt", "cosmap"])
def test_training(weighting, shift, run):
    objective = FlowMatching(FlowMatchScheduler(weighting=weighting, **TRAINING.config["shifts"][shift]))
    draw = TRAINING.inputs["normal_draw" if weighting == "logit_normal" else "uniform_draw"]
    x0, noise, mask, prediction = (TRAINING.tensor(k) for k in ("x0", "noise", "mask", "model_output"))
    outputs = {
        k: TRAINING.outputs[f"{k}_{weighting}_{shift}"]
        for k in ("sigma", "timestep", "weight", "x_t", "loss", "loss_masked")
        if f"{k}_{weighting}_{shift}" in TRAINING.outputs
    }

    sigmas = objective.sigmas(draw, x0.shape[-2:])
    assert_near(sigmas, outputs["sigma"])
    assert_near(1000 * sigmas, outputs["timestep"])
    sigma = Tensor(outputs["sigma"])  # upstream's own, so that the checks below are independent
    weights, add_noise, loss = functions(objective)
    assert_near(run(weights, sigma), outputs["weight"])
    assert_near(run(add_noise, x0, noise, sigma), outputs["x_t"])
    assert_near(run(loss, prediction, x0, noise, sigma), outputs["loss"])
    assert_near(run(loss, prediction, x0, noise, sigma, mask), outputs["loss_masked"])


@pytest.mark.parametrize("case", LOSSES["v15_sigma_shift"], ids=lambda case: f"{case['latent_hw']}")
def test_dynamic_shift(case):
    """The uniform scheme uses its draw as the sigmas before the shift."""
    objective = FlowMatching(FlowMatchScheduler(use_dynamic_shifting=True, weighting="uniform"))
    sigmas = objective.sigmas(np.array(case["sigma_in"]), case["latent_hw"])
    assert_near(sigmas, case["sigma_out"])
    assert_near(1000 * sigmas, case["timestep"])


@pytest.mark.parametrize("case", range(len(LOSSES["v15_loss"])))
def test_loss(case, run):
    case = LOSSES["v15_loss"][case]
    shape = case["shape"]
    x0, noise, prediction = (Tensor(np.array(case[k], np.float32).reshape(shape)) for k in ("x0", "noise", "pred"))
    mask = Tensor(np.array(case["mask"], np.float32).reshape(shape[0], *shape[2:]))
    sigma = Tensor(np.array(case["sigma"], np.float32))
    _, add_noise, loss = functions(FlowMatching(FlowMatchScheduler()))
    assert_near(run(add_noise, x0, noise, sigma), case["x_t"])
    assert_near(run(loss, prediction, x0, noise, sigma, mask), np.array(case["loss"]))


def test_draws_have_the_distribution_they_are_named_after():
    rng = np.random.default_rng(0)
    normal = FlowMatching(FlowMatchScheduler(weighting="logit_normal"))
    sigmas = normal.sigmas(normal.draw(rng, 20_000))
    logits = np.log(sigmas / (1 - sigmas))
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03  # 4 standard errors of 20,000 draws
    uniform = FlowMatching(FlowMatchScheduler(weighting="uniform"))
    sigmas = uniform.sigmas(uniform.draw(rng, 20_000))
    assert abs(sigmas.mean() - 0.5) < 0.01 and abs(sigmas.std() - math.sqrt(1 / 12)) < 0.01


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_half_precision_is_mixed_in_float32(dtype):
    """The result is the float32 result rounded once."""
    rng = np.random.default_rng(0)
    x0, noise = (Tensor(rng.normal(size=(2, 3, 4)).astype(np.float32)).astype(dtype) for _ in range(2))
    sigma = Tensor(np.array([0.3, 0.9], np.float32))
    objective = FlowMatching(FlowMatchScheduler())
    expected = objective.add_noise(x0.astype(ms.float32), noise.astype(ms.float32), sigma).astype(dtype)
    np.testing.assert_array_equal(
        objective.add_noise(x0, noise, sigma).astype(ms.float32).asnumpy(), expected.astype(ms.float32).asnumpy()
    )


@pytest.mark.parametrize(
    "config, words",
    [
        ({"shift": 0}, ["shift = 0", "from 1e-06"]),
        ({"sigma_eps": 1.0}, ["sigma_eps = 1.0", "[0, 1)"]),
        ({"weighting": "cosmos"}, ["'cosmos'", "cosmap"]),
        ({"shfit": 7.0}, ["'shfit'", "'shift'"]),
    ],
)
def test_bad_configs(config, words):
    with pytest.raises(InputError) as error:
        FlowMatchScheduler.from_upstream(config)
    for word in words:
        assert word in str(error.value)


def test_bad_steps():
    for steps in (0, -1, 1001, 2.5):
        with pytest.raises(InputError, match="num_inference_steps"):
            FlowMatchScheduler().sigmas(steps)
    with pytest.raises(InputError, match="multiple of 2.*nearest legal: 8 or 10"):
        FlowMatchScheduler(use_linear_quadratic_schedule=True).sigmas(9)
    with pytest.raises(InputError, match="latent height and width"):
        FlowMatchScheduler(use_dynamic_shifting=True).sigmas(10)
