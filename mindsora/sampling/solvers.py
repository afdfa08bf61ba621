"""Solvers: from noise to data along a model's velocity.

A solver is a generator that yields every step it takes. The caller's loop builds on it: a progress bar, callbacks,
previews. The solver goes on from `step.latents`, which the caller may replace. The last step's latents are the result.

    for step in euler(velocity, noise, sigmas):
        show(step.latents)
    return step.latents

`velocity(x, timestep)` is any Python callable, so guidance, caches of earlier steps and parallel models wrap it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (x, timestep from 0 to 1000) -> v, a Tensor shaped like x


@dataclass
class Step:
    """A step that a solver has taken.

    Attributes:
        index: 0 for the first.
        sigma, timestep: the noise level that the step left, and the model's time there, 0 to 1000.
        latents: (B, ...) at the next noise level.
    """

    index: int
    sigma: float
    timestep: float
    latents: Tensor


def euler(velocity: Velocity, x: Tensor, sigmas: np.ndarray) -> Iterator[Step]:
    """Integrate dx/dsigma = velocity(x, 1000 * sigma) from sigmas[0] to sigmas[-1].

    Each step runs in float32 and returns to the dtype of the velocity.
    """
    for index, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        timestep = 1000 * float(sigma)
        v = velocity(x, timestep)
        # The difference is taken in float32, as upstream takes it.
        x = (x.astype(ms.float32) + float(sigma_next - sigma) * v.astype(ms.float32)).astype(v.dtype)
        step = Step(index, float(sigma), timestep, x)
        yield step
        x = step.latents


def euler_ancestral(
    velocity: Velocity,
    x: Tensor,
    timesteps: np.ndarray,
    sigmas: np.ndarray,
    rng: np.random.RandomState,
    prediction_type: str = "v_prediction",
) -> Iterator[Step]:
    """Euler steps down to sigma_down, each followed by fresh noise up to the next sigma (k-diffusion's sampler).

    Each step runs in float32 and returns to the dtype of the velocity.

    Args:
        velocity: is given x / sqrt(sigma^2 + 1).
        x: (B, ...) at sigmas[0].
        timesteps, sigmas: (n,) and (n + 1,).
        rng: its `standard_normal(shape)` gives the noise. The last step draws too, and multiplies by 0.
        prediction_type: "v_prediction", or "epsilon" where `velocity` predicts the noise.
    """
    for index, timestep in enumerate(timesteps):
        # Python floats: sigma_down is the small difference of large numbers, of which float32 would keep four digits.
        sigma, sigma_next = float(sigmas[index]), float(sigmas[index + 1])
        sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        sigma_down = sigma_next**2 / sigma  # sqrt(sigma_next^2 - sigma_up^2)
        scale = (sigma**2 + 1) ** 0.5
        h = x.astype(ms.float32)
        v = velocity((h / scale).astype(x.dtype), float(timestep))
        noise = Tensor(rng.standard_normal(x.shape).astype(np.float32))
        if prediction_type == "epsilon":
            x0 = h - sigma * v.astype(ms.float32)
        else:
            x0 = h / scale**2 - v.astype(ms.float32) * (sigma / scale)
        x = (h + (h - x0) / sigma * (sigma_down - sigma) + sigma_up * noise).astype(v.dtype)
        step = Step(index, sigma, float(timestep), x)
        yield step
        x = step.latents


def pndm(velocity: Velocity, x: Tensor, timesteps: np.ndarray, alphas_cumprod: np.ndarray) -> Iterator[Step]:
    """Pseudo numerical methods for diffusion models (arXiv 2202.09778): Runge-Kutta in the first three steps, then the
    linear multistep rule of fourth order.

    Each step runs in float32 and returns to the dtype of the prediction.

    Args:
        velocity: predicts the noise in x.
        x: (B, ...), unit noise.
        timesteps: (n,) training steps, descending to 0, equally far apart; n at least 4.
        alphas_cumprod: (1000,) abar of every training step. The clip itself is taken to be at that of step 0.
    """
    stride = int(timesteps[0] - timesteps[1])
    past: list[Tensor] = []

    def predict(x: Tensor, timestep: int) -> Tensor:
        return velocity(x, float(timestep))

    def move(e: Tensor, start: int, end: int) -> Tensor:
        """Equation 9: from the x of this step to another level along the noise e."""
        return _transfer(x, e, float(alphas_cumprod[start]), float(alphas_cumprod[max(end, 0)]))

    for index, timestep in enumerate(map(int, timesteps)):
        end = timestep - stride
        e = predict(x, timestep)
        past = [*past[-3:], e.astype(ms.float32)]
        if index < 3:
            middle = timestep - stride // 2
            e2 = predict(move(e, timestep, middle), middle)
            e3 = predict(move(e2, timestep, middle), middle)
            e4 = predict(move(e3, timestep, end), end)
            a, b, c, d = (part.astype(ms.float32) for part in (e, e2, e3, e4))
            mean = (a + 2 * b + 2 * c + d) / 6
        else:
            mean = (55 * past[-1] - 59 * past[-2] + 37 * past[-3] - 9 * past[-4]) / 24
        x = move(mean.astype(e.dtype), timestep, end)
        abar = float(alphas_cumprod[timestep])
        step = Step(index, ((1 - abar) / abar) ** 0.5, float(timestep), x)
        yield step
        x = step.latents


def dpmpp_2m(
    velocity: Velocity,
    x: Tensor,
    timesteps: np.ndarray,
    sigmas: np.ndarray,
    prediction_type: str = "flow",
) -> Iterator[Step]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order with one evaluation a step, and no fresh noise.

    With x = signal * x0 + noise * n, it extrapolates the clip x0 from this step and the one before along
    log(signal / noise). Steps from or to an infinite logarithm are of first order: from pure noise, the step after it,
    and the last. Each step runs in float32 and returns to the dtype of the velocity.

    Args:
        velocity: is given x of flow matching, or x with unit variance.
        x: (B, ...), unit noise.
        timesteps, sigmas: (n,) and (n + 1,). Signal and noise are 1 - sigma and sigma for "flow"; otherwise
            noise / signal is sigma, and their squares add to 1.
        prediction_type: "flow" where `velocity` predicts n - x0, "v_prediction" for signal * n - noise * x0, "epsilon"
            for n.
    """
    before, rise_before = None, math.inf
    for index, timestep in enumerate(timesteps):
        signal, noise = _rates(float(sigmas[index]), prediction_type)
        signal_next, noise_next = _rates(float(sigmas[index + 1]), prediction_type)
        h, v = x.astype(ms.float32), velocity(x, float(timestep))
        x0 = _clip_of(h, v.astype(ms.float32), signal, noise, prediction_type)
        decay = signal * noise_next / (noise * signal_next)  # exp(-rise)
        rise = -math.log(decay) if decay > 0 else math.inf  # of log(signal / noise)
        second_order = math.isfinite(rise) and math.isfinite(rise_before)
        mean = x0 + rise / (2 * rise_before) * (x0 - before) if second_order else x0
        before, rise_before = x0, rise
        x = (noise_next / noise * h + signal_next * (1 - decay) * mean).astype(v.dtype)
        step = Step(index, float(sigmas[index]), float(timestep), x)
        yield step
        x = step.latents


def _rates(sigma: float, prediction_type: str) -> tuple[float, float]:
    """Signal and noise at a level."""
    if prediction_type == "flow":
        return 1 - sigma, sigma
    scale = (sigma**2 + 1) ** 0.5
    return 1 / scale, sigma / scale


def _clip_of(x: Tensor, v: Tensor, signal: float, noise: float, prediction_type: str) -> Tensor:
    """The clip x0 that a prediction v at x implies."""
    if prediction_type == "flow":
        return x - noise * v
    if prediction_type == "v_prediction":
        return signal * x - noise * v
    return (x - noise * v) / signal


def _transfer(x: Tensor, e: Tensor, abar: float, abar_next: float) -> Tensor:
    """x at the level abar, whose noise is e, at the level abar_next; in float32, returned in the dtype of e."""
    denominator = abar * (1 - abar_next) ** 0.5 + (abar * (1 - abar) * abar_next) ** 0.5
    h, noise = x.astype(ms.float32), e.astype(ms.float32)
    return ((abar_next / abar) ** 0.5 * h - (abar_next - abar) / denominator * noise).astype(e.dtype)
