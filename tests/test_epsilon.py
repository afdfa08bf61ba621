"""Noise prediction of v1.2, with Euler-ancestral and with PNDM, against diffusers' numbers (scheduler_v12,
scheduler_v12_pndm): within 1e-6 of the largest reference value, float32 rounding, unless a test states another limit.
"""

import mindspore as ms
import numpy as np
import pytest
from golden_file import Golden
from mindspore import Tensor, ops
from test_flow_matching import assert_near
from test_v_prediction import DIFFUSERS, Given

from mindsora.errors import InputError
from mindsora.sampling import EpsilonScheduler, VPredictionScheduler, guide
from mindsora.train.objectives import NoisePrediction

EULER, PNDM = Golden("scheduler_v12"), Golden("scheduler_v12_pndm")
ANCESTRAL = EpsilonScheduler()
MULTISTEP = EpsilonScheduler(timestep_spacing="leading", solver="pndm")
DIFFUSERS_PNDM = {  # as diffusers writes it
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.28.0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": False,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "trained_betas": None,
}


def predicted(golden, run, seen):
    """The toy model of the golden files with guidance, as a function of x and the time."""
    c = Tensor(golden.inputs["encoder_hidden_states"].mean((1, 2, 3)).reshape(-1, 1, 1, 1, 1))  # negatives, positives
    scale, rescale = (Tensor(golden.config[key], ms.float32) for key in ("guidance_scale", "guidance_rescale"))

    def model(x, t, c):
        return c * x + 0.4 * ops.sin(2 * x) - 0.2 * (t / 1000)

    def noise(x, timestep):
        seen.append((timestep, x.asnumpy()))
        negative, positive = run(model, ops.concat([x, x]), Tensor(timestep, ms.float32), c).chunk(2)
        return run(guide, negative, positive, scale, rescale)

    return noise


@pytest.mark.parametrize("steps, suffix", [(12, ""), (30, "_30"), (50, "_50"), (100, "_100")])
def test_levels(steps, suffix):
    timesteps, sigmas = ANCESTRAL.timesteps(steps), ANCESTRAL.sigmas(steps)
    assert timesteps.dtype == sigmas.dtype == np.float32
    assert_near(timesteps, EULER.outputs["timesteps" + suffix])
    assert_near(sigmas, EULER.outputs["sigmas" + suffix])
    # The small sigmas, which form the picture, must hold to the rounding of the float32 table: see test_v_prediction.
    np.testing.assert_allclose(sigmas, EULER.outputs["sigmas" + suffix], rtol=3e-4)


def test_start_of_sampling():
    assert_near([ANCESTRAL.init_noise_sigma(12)], EULER.outputs["init_noise_sigma"])
    assert_near(ANCESTRAL.alphas_cumprod(), EULER.outputs["alphas_cumprod"])


def test_trajectory_of_euler_ancestral(run):
    seen, rng = [], Given(EULER.inputs["step_noise"])
    latents = Tensor(EULER.inputs["latents_unit"])
    steps = list(ANCESTRAL.steps(predicted(EULER, run, seen), latents, 12, rng))
    assert [step.index for step in steps] == list(range(12))
    assert_near([time for time, _ in seen], EULER.outputs["timesteps"])
    # 2e-5 of the largest: x - sigma * noise are differences of numbers up to 600, of which float32 leaves 3e-5, and
    # both the reference and the toy model pass that on.
    for ours, name in (
        ([x for _, x in seen], "scaled_model_input"),
        ([step.latents.asnumpy() for step in steps], "latents_after_step"),
    ):
        reference = EULER.outputs[name]
        np.testing.assert_allclose(np.stack(ours), reference, rtol=0, atol=2e-5 * np.abs(reference).max())
    assert next(rng.draws, None) is None


def test_trajectory_of_pndm(run):
    """19 evaluations for 10 steps: four in each of the first three."""
    seen = []
    latents = Tensor(PNDM.inputs["latents_unit"])
    steps = list(MULTISTEP.steps(predicted(PNDM, run, seen), latents, 10, None))
    assert [step.index for step in steps] == list(range(10))
    np.testing.assert_array_equal([time for time, _ in seen], PNDM.outputs["timesteps"])
    # 3e-5 of the largest: the toy's guidance of 7.5 and the rule's factors of 55/24 enlarge float32 rounding.
    reference = PNDM.outputs["model_input"]
    np.testing.assert_allclose(np.stack([x for _, x in seen]), reference, rtol=0, atol=3e-5 * np.abs(reference).max())
    reference = PNDM.outputs["latents_after_step"]
    ours = np.stack([step.latents.asnumpy() for step in steps])
    # The reference counts evaluations; the third of each group of four ends a step.
    np.testing.assert_allclose(ours, reference[[3, 7, *range(11, 19)]], rtol=0, atol=3e-5 * np.abs(reference).max())


@pytest.mark.parametrize("steps, name", [(50, "timesteps_50"), (100, "timesteps_100")])
def test_times_of_pndm(steps, name):
    seen = []

    def noise(x, timestep):
        seen.append(timestep)
        return x

    list(MULTISTEP.steps(noise, Tensor(np.ones((1, 1), np.float32)), steps, None))
    np.testing.assert_array_equal(seen, PNDM.outputs[name])


def test_training(run):
    """x_t, target and min-SNR weights as upstream trains v1.2, its noise with an offset in every channel."""
    objective = NoisePrediction(ANCESTRAL)
    x0, noise, timestep = (EULER.tensor(f"train_{name}") for name in ("x0", "noise", "timesteps"))
    draw = EULER.tensor("train_noise_offset_draw")

    def training(x0, noise, draw, timestep):
        noise = objective.offset(noise, draw)
        x = objective.add_noise(x0, noise, timestep)
        loss = objective.loss(x, x0, noise, timestep)
        return noise, x, objective.snr(timestep), objective.loss_weights(timestep), loss

    assert_near(ANCESTRAL.alphas_cumprod(), EULER.outputs["train_alphas_cumprod"])
    noise, x, snr, weights, loss = run(training, x0, noise, draw, timestep)
    expected = EULER.outputs["train_noise_with_offset"], EULER.outputs["train_noisy"]
    assert_near(noise, expected[0])
    assert_near(x, expected[1])
    # 1 - abar of the first steps is small, and float32 rounds abar: 1e-4 of the ratio.
    np.testing.assert_allclose(snr.asnumpy(), EULER.outputs["train_snr"], rtol=1e-4)
    weight = EULER.outputs["train_min_snr5_weight_epsilon"]
    np.testing.assert_allclose(weights.asnumpy(), weight, rtol=1e-4)
    error = (expected[1].astype(np.float64) - expected[0]) ** 2
    np.testing.assert_allclose(loss.asnumpy(), (weight.reshape(-1, 1, 1, 1, 1) * error).mean(), rtol=1e-4)


@pytest.mark.parametrize("scheduler", [ANCESTRAL, MULTISTEP], ids=["euler_ancestral", "pndm"])
def test_half_precision_keeps_its_dtype(scheduler):
    x = Tensor(np.ones((1, 2), np.float32)).astype(ms.float16)
    *_, last = scheduler.steps(lambda x, timestep: 0.5 * x, x, 6, np.random.RandomState(0))
    assert last.latents.dtype == ms.float16 and np.isfinite(last.latents.asnumpy()).all()


def test_reads_diffusers_configurations():
    assert EpsilonScheduler.from_upstream({"_class_name": "EulerAncestralDiscreteScheduler"}) == ANCESTRAL
    linspace = {"timestep_spacing": "linspace", "prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    assert EpsilonScheduler.from_upstream(DIFFUSERS | linspace) == ANCESTRAL
    assert EpsilonScheduler.from_upstream(DIFFUSERS_PNDM) == MULTISTEP
    assert EpsilonScheduler.from_upstream({"_class_name": "EpsilonScheduler"}) == ANCESTRAL


@pytest.mark.parametrize(
    "config, words",
    [
        (DIFFUSERS, ["prediction_type = 'v_prediction'", "EpsilonScheduler"]),
        (DIFFUSERS_PNDM | {"skip_prk_steps": True}, ["skip_prk_steps = True", "only False"]),
        (DIFFUSERS_PNDM | {"set_alpha_to_one": True}, ["set_alpha_to_one = True"]),
        (DIFFUSERS_PNDM | {"timestep_spacing": "trailing"}, ["'trailing'", "'leading'"]),
        ({"solver": "heun"}, ["'heun'", "euler_ancestral, dpmpp_2m or pndm"]),
        ({"rescale_betas_zero_snr": True}, ["rescale_betas_zero_snr"]),
        ({"timestep_spacing": "even"}, ["'even'", "linspace"]),
    ],
)
def test_bad_configurations(config, words):
    with pytest.raises(InputError) as error:
        EpsilonScheduler.from_upstream(config)
    assert all(word in str(error.value) for word in words), error.value


def test_too_few_steps_for_pndm_and_v_prediction_has_no_pndm():
    with pytest.raises(InputError, match="num_inference_steps = 3: PNDM needs 4"):
        MULTISTEP.steps(lambda x, timestep: x, Tensor(np.ones((1, 1), np.float32)), 3, None)
    with pytest.raises(InputError, match="PNDMScheduler"):
        VPredictionScheduler.from_upstream({"_class_name": "PNDMScheduler"})
