"""DPM-Solver++(2M) against diffusers' numbers, and against the exact solution for Gaussian data."""

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from golden_file import FOLDER
from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.sampling import EpsilonScheduler, FlowMatchScheduler, VPredictionScheduler, dpmpp_2m

GOLDEN = json.loads((FOLDER / "dpmpp_2m.json").read_text())
NOISE = np.array(GOLDEN["noise"], np.float32).reshape(GOLDEN["shape"])
MEAN, SPREAD = 0.5, 0.2  # of the Gaussian data


def toy(x, timestep):
    """The velocity that the golden file names."""
    return 0.7 * x + 0.4 * ops.sin(2 * x) - 0.2 * (timestep / 1000)


def gaussian_velocity(x, timestep):
    """The exact E[n - x0 | x] of flow matching for x0 ~ N(MEAN, SPREAD^2)."""
    sigma = timestep / 1000
    signal = 1 - sigma
    variance = signal**2 * SPREAD**2 + sigma**2
    return (sigma - signal * SPREAD**2) / variance * (x - signal * MEAN) - MEAN


def last(steps):
    *_, step = steps
    return step.latents.asnumpy()


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_latents_of_diffusers(name):
    """Within 2e-5 of the largest latent: diffusers takes the logarithms of its float32 levels in float32."""
    case, kind = GOLDEN["cases"][name], name.rpartition("_")[0]
    sigmas = np.array(case["sigmas"], np.float32)
    timesteps = 1000 * sigmas[:-1] if kind == "flow" else case["timesteps"]
    latents = last(dpmpp_2m(toy, Tensor(NOISE), timesteps, sigmas, kind))
    expected = np.array(case["latents"]).reshape(latents.shape)
    np.testing.assert_allclose(latents, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def error_of(scheduler, steps):
    """Largest distance from the exact solution, which maps the noise z to MEAN + SPREAD * z."""
    latents = last(scheduler.steps(gaussian_velocity, Tensor(NOISE), steps, None))
    return np.abs(latents - (MEAN + SPREAD * NOISE)).max()


def test_order_of_convergence():
    """Eight times the steps: 1/8 of the error at first order, 1/64 at second. The limits allow for first-order ends."""
    euler, second = FlowMatchScheduler(), FlowMatchScheduler(solver="dpmpp_2m")
    assert 5 < error_of(euler, 10) / error_of(euler, 80) < 12
    assert error_of(second, 10) / error_of(second, 80) > 20
    assert error_of(second, 20) < error_of(euler, 80)


@pytest.mark.parametrize("scheduler", [VPredictionScheduler(), EpsilonScheduler()], ids=["v", "epsilon"])
def test_diffusion_schedulers(scheduler):
    """A model that always finds the same clip leads to that clip, whatever the schedule; no noise is drawn."""
    scheduler = replace(scheduler, solver="dpmpp_2m")
    clip = Tensor(np.full(NOISE.shape, 0.3, np.float32))
    alphas = scheduler.alphas_cumprod().astype(np.float64)

    def prediction(x, timestep):
        abar = np.interp(timestep, np.arange(1000), alphas)
        signal, noise = float(abar**0.5), float((1 - abar) ** 0.5)
        n = (x - signal * clip) / noise
        return signal * n - noise * clip if scheduler.prediction_type == "v_prediction" else n

    # The prediction's abar is interpolated, the scheduler's sigma: 1e-2 where "linspace" has times between whole steps.
    np.testing.assert_allclose(last(scheduler.steps(prediction, Tensor(NOISE), 12, rng=None)), 0.3, atol=1e-2)


def test_dtype_and_one_evaluation_per_step():
    times = []

    def velocity(x, timestep):
        times.append(timestep)
        return toy(x, timestep)

    steps = FlowMatchScheduler(solver="dpmpp_2m").steps(velocity, Tensor(NOISE).astype(ms.float16), 5, None)
    assert [step.latents.dtype for step in steps] == [ms.float16] * 5
    np.testing.assert_allclose(times, [1000, 800, 600, 400, 200], rtol=1e-6)


@pytest.mark.parametrize("cls", [FlowMatchScheduler, VPredictionScheduler, EpsilonScheduler])
def test_unknown_solver(cls):
    with pytest.raises(InputError, match="solver = 'heun': must be .* or "):
        cls(solver="heun")
