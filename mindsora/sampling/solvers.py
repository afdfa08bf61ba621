"""Solvers: from noise to data along a model's velocity.

A solver is a generator that yields every step it takes. The caller's loop builds on it: a progress bar, callbacks,
previews. The solver goes on from `step.latents`, which the caller may replace. The last step's latents are the result.

    for step in euler(velocity, noise, sigmas):
        show(step.latents)
    return step.latents

`velocity(x, timestep)` is any Python callable, so guidance, caches of earlier steps and parallel models wrap it.
"""

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
    velocity: Velocity, x: Tensor, timesteps: np.ndarray, sigmas: np.ndarray, rng: np.random.RandomState
) -> Iterator[Step]:
    """Euler steps down to sigma_down, each followed by fresh noise up to the next sigma (k-diffusion's sampler).

    Each step runs in float32 and returns to the dtype of the velocity.

    Args:
        velocity: is given x / sqrt(sigma^2 + 1).
        x: (B, ...) at sigmas[0].
        timesteps, sigmas: (n,) and (n + 1,).
        rng: its `standard_normal(shape)` gives the noise. The last step draws too, and multiplies by 0.
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
        x0 = h / scale**2 - v.astype(ms.float32) * (sigma / scale)
        x = (h + (h - x0) / sigma * (sigma_down - sigma) + sigma_up * noise).astype(v.dtype)
        step = Step(index, sigma, float(timestep), x)
        yield step
        x = step.latents
