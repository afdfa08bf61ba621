"""Rectified flow as Open-Sora Plan v1.5 trains and samples it (class `OpenSoraPlanScheduler` upstream).

x_sigma = sigma * noise + (1 - sigma) * x0, the model predicts v = noise - x0 and is given the time 1000 * sigma.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.config import from_dict
from mindsora.errors import InputError
from mindsora.shapes import check_steps

WEIGHTINGS = ("logit_normal", "mode", "uniform", "sigma_sqrt", "cosmap")


@dataclass(frozen=True)
class FlowMatchScheduler:
    """Which noise levels are trained on and sampled at.

    Training and sampling may differ: v1.5 trains with dynamic shifting and samples with shift 7.

    Attributes:
        shift: a in sigma' = a sigma / (1 + (a - 1) sigma): larger than 1 spends more steps near pure noise.
        use_dynamic_shifting: take a from the number of tokens in one frame instead, a = exp(k tokens + b), with
            (base_seq_len, base_shift) and (max_seq_len, max_shift) on that line.
        sigma_eps: the smallest sigma.
        use_linear_quadratic_schedule: half of the steps at a constant small stride near pure noise, then
            quadratic; no shift on top. Needs an even number of steps.
        weighting: how training draws sigma, and how it weighs the loss; one of WEIGHTINGS.
    """

    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_seq_len: int = 256
    max_seq_len: int = 4096
    sigma_eps: float = 0.0
    use_linear_quadratic_schedule: bool = False
    weighting: str = "logit_normal"

    def __post_init__(self):
        if self.shift <= 0:
            raise InputError(f"shift = {self.shift}: must be positive; 1 leaves sigma as it is")
        if not 0 <= self.sigma_eps < 1:
            raise InputError(f"sigma_eps = {self.sigma_eps}: must be in [0, 1)")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting = {self.weighting!r}: must be one of {', '.join(WEIGHTINGS)}")
        if self.max_seq_len <= self.base_seq_len:
            raise InputError(f"max_seq_len {self.max_seq_len} must be above base_seq_len {self.base_seq_len}")

    @classmethod
    def from_upstream(cls, config: dict) -> "FlowMatchScheduler":
        """Build from a scheduler_config.json; an unknown key is an InputError."""
        return from_dict(cls, config)

    # Sampling

    def sigmas(self, num_inference_steps: int, latent_size: tuple[int, int] | None = None, inversion: bool = False):
        """Noise levels from 1 down to sigma_eps (upwards for inversion).

        Args:
            num_inference_steps: n, 1 to 1000.
            latent_size: latent (height, width); dynamic shifting needs it.

        Returns:
            float32 array (n + 1,). The model's times are 1000 * sigma, without the last.
        """
        check_steps(num_inference_steps, even=self.use_linear_quadratic_schedule)
        if self.use_linear_quadratic_schedule:
            sigmas = _linear_quadratic(num_inference_steps)
        else:
            sigmas = np.linspace(1, 0, num_inference_steps + 1)
            if self.use_dynamic_shifting or self.shift > 1:  # upstream ignores a sampling shift below 1
                sigmas = self._shifted(sigmas, latent_size)
        sigmas = np.where(sigmas <= self.sigma_eps, self.sigma_eps, sigmas).astype(np.float32)
        return np.ascontiguousarray(sigmas[::-1]) if inversion else sigmas

    def sample(
        self, velocity: Callable, noise: Tensor, num_inference_steps: int, rng=None, callback: Callable | None = None
    ) -> Tensor:
        """From noise to data with `euler`.

        Args:
            velocity: (x, timestep as a float) -> Tensor shaped like x.
            noise: unit noise (B, c, t, h, w).
            rng: not used, no step adds noise. (In its place, so that schedulers are called alike.)
            callback: (step, timestep, x) after each step -> the x to go on with.
        """

        def at(x, sigma):
            return velocity(x, 1000 * sigma)

        def after(step, sigma, x):
            return callback(step, 1000 * sigma, x)

        sigmas = self.sigmas(num_inference_steps, noise.shape[-2:])
        return euler(at, noise, sigmas, after if callback is not None else None)

    def _shifted(self, sigmas: np.ndarray, latent_size: tuple[int, int] | None) -> np.ndarray:
        a = self.shift
        if self.use_dynamic_shifting:
            if latent_size is None:
                raise InputError("dynamic shifting needs the latent height and width")
            tokens = latent_size[0] * latent_size[1] // 4  # one frame, patches of 2 x 2; frames do not count
            k = (self.max_shift - self.base_shift) / (self.max_seq_len - self.base_seq_len)
            a = math.exp(k * tokens + self.base_shift - k * self.base_seq_len)
        return a * sigmas / (1 + (a - 1) * sigmas)

    # Training

    def draw(self, rng, batch: int) -> np.ndarray:
        """What `training_sigmas` starts from: normal draws for logit_normal, uniform ones for every other scheme.

        Args:
            rng: a NumPy Generator or RandomState.
        """
        return rng.normal(size=batch) if self.weighting == "logit_normal" else rng.uniform(size=batch)

    def training_sigmas(self, draw: np.ndarray, latent_size: tuple[int, int] | None = None) -> np.ndarray:
        """One sigma per sample. draw: (B,), see `draw`. Returns float32 (B,)."""
        u = np.asarray(draw, dtype=np.float64)
        if self.weighting == "logit_normal":
            u = 1 / (1 + np.exp(-u))
        elif self.weighting == "mode":
            u = 1 - u - 1.29 * (np.cos(math.pi * u / 2) ** 2 - 1 + u)
        sigmas = self._shifted(u, latent_size)  # here, unlike in sampling, a shift below 1 counts too
        return np.maximum(sigmas, self.sigma_eps).astype(np.float32)

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x_sigma. x0, noise: (B, ...); sigma: (B,). Mixed in float32, returned in x0's dtype."""
        s = per_sample(sigma, x0)
        return (s * noise.astype(ms.float32) + (1 - s) * x0.astype(ms.float32)).astype(x0.dtype)

    def loss_weights(self, sigma: Tensor) -> Tensor:
        """Weight of each sample's squared error. sigma: (B,) -> (B,)."""
        s = sigma.astype(ms.float32)
        if self.weighting == "sigma_sqrt":
            return 1 / (s * s)
        if self.weighting == "cosmap":
            return 2 / (math.pi * (1 - 2 * s + 2 * s * s))
        return ops.ones_like(s)

    def loss(self, prediction: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weighted mean of (prediction - (noise - x0))^2 over the real latents, float32.

        Args:
            prediction, x0, noise: (B, C, T, H, W).
            sigma: (B,).
            mask: (B, T, H, W), 1 for a real latent, 0 for padding; None where all are real.
        """
        error = prediction.astype(ms.float32) - (noise.astype(ms.float32) - x0.astype(ms.float32))
        return masked_mean(per_sample(self.loss_weights(sigma), x0) * error * error, mask)


def euler(velocity: Callable, x: Tensor, sigmas: np.ndarray, callback: Callable | None = None) -> Tensor:
    """Integrate dx/dsigma = velocity(x, sigma) from sigmas[0] to sigmas[-1].

    Each step runs in float32 and returns to the dtype of the velocity.

    Args:
        velocity: (x, sigma as a float) -> Tensor shaped like x.
        callback: (step, sigma, x) after each step -> the x to go on with.
    """
    for step, (sigma, sigma_next) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        v = velocity(x, float(sigma))
        # The difference is taken in float32, as upstream takes it.
        x = (x.astype(ms.float32) + float(sigma_next - sigma) * v.astype(ms.float32)).astype(v.dtype)
        if callback is not None:
            x = callback(step, float(sigma), x)
    return x


def guide(negative: Tensor, positive: Tensor, scale: Tensor | float, rescale: Tensor | float = 0.0) -> Tensor:
    """Classifier-free guidance, part of it rescaled to the positive prediction's spread (arXiv 2305.08891, 3.4).

    Args:
        negative, positive: (B, ...) predictions.
        scale: 1 gives the positive prediction, larger follows the prompt more.
        rescale: share of the rescaled result, 0 to 1.
    """
    n, p = negative.astype(ms.float32), positive.astype(ms.float32)
    v = n + scale * (p - n)
    v = rescale * (v * (_std(p) / _std(v))) + (1 - rescale) * v
    return v.astype(positive.dtype)


def _std(x: Tensor) -> Tensor:
    """Standard deviation of each sample, (B, ...) -> (B, 1, ...)."""
    h = x.reshape(x.shape[0], -1)
    h = h - h.mean(1, keep_dims=True)
    return ops.sqrt((h * h).mean(1)).reshape((-1,) + (1,) * (x.ndim - 1))


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...) beside x (B, ...), float32."""
    return values.astype(ms.float32).reshape((-1,) + (1,) * (x.ndim - 1))


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of error (B, C, T, H, W) over the latents with mask (B, T, H, W) 1; over all where it is None."""
    if mask is None:
        return error.mean()
    mask = mask.astype(ms.float32).expand_dims(1)  # (B, 1, T, H, W)
    return (error * mask).sum() / (mask.sum() * error.shape[1])


def _linear_quadratic(n: int) -> np.ndarray:
    """The linear-quadratic schedule: its first half follows a fine grid of M steps, its second half is a parabola."""
    half, fine = n // 2, min(max(10 * n, 250), 1000) / 2
    i = np.arange(n)
    a = (fine - half) / (fine * half**2)
    b = (5 * half - 4 * fine) / (2 * fine * half)
    c = (fine - half) / fine
    return 1 - np.append(np.where(i < half, i / (2 * fine), a * i**2 + b * i + c), 1.0)
