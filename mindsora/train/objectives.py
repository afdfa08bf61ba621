"""Training objectives of a denoiser: distribution of noise levels, mixing of noise, prediction target, loss weights.

An objective reads the fields of its scheduler. Its noise level is the scheduler's: sigma for flow matching, the training
step for v-prediction.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.sampling import EpsilonScheduler, FlowMatchScheduler, VPredictionScheduler


class FlowMatching:
    """Rectified flow: x_sigma = sigma * noise + (1 - sigma) * x0, and the model predicts v = noise - x0."""

    def __init__(self, scheduler: FlowMatchScheduler):
        self.scheduler = scheduler

    def draw(self, rng, batch: int) -> np.ndarray:
        """Draw (B,) numbers for `sigmas`: normal for logit_normal, uniform for every other scheme.

        Args:
            rng: a NumPy Generator or RandomState.
        """
        return rng.normal(size=batch) if self.scheduler.weighting == "logit_normal" else rng.uniform(size=batch)

    def sigmas(self, draw: np.ndarray, latent_size: tuple[int, int] | None = None) -> np.ndarray:
        """One sigma per sample, float32 (B,). draw: (B,), see `draw`; latent_size: (height, width)."""
        u = np.asarray(draw, dtype=np.float64)
        if self.scheduler.weighting == "logit_normal":
            u = 1 / (1 + np.exp(-u))
        elif self.scheduler.weighting == "mode":
            u = 1 - u - 1.29 * (np.cos(math.pi * u / 2) ** 2 - 1 + u)
        sigmas = self.scheduler.shifted(u, latent_size)  # unlike in sampling, a shift below 1 applies too
        return np.maximum(sigmas, self.scheduler.sigma_eps).astype(np.float32)

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x_sigma. x0, noise: (B, ...); sigma: (B,). Mixed in float32, returned in x0's dtype."""
        s = per_sample(sigma, x0)
        return (s * noise.astype(ms.float32) + (1 - s) * x0.astype(ms.float32)).astype(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """The v that the model learns to predict, float32. x0, noise: (B, ...)."""
        return noise.astype(ms.float32) - x0.astype(ms.float32)

    def loss_weights(self, sigma: Tensor) -> Tensor:
        """Weight of each sample's squared error. sigma: (B,) -> (B,)."""
        s = sigma.astype(ms.float32)
        if self.scheduler.weighting == "sigma_sqrt":
            return 1 / (s * s)
        if self.scheduler.weighting == "cosmap":
            return 2 / (math.pi * (1 - 2 * s + 2 * s * s))
        return ops.ones_like(s)

    def loss(self, prediction: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weighted mean of (prediction - v)^2 over the real latents, float32.

        Args:
            prediction, x0, noise: (B, C, T, H, W).
            sigma: (B,).
            mask: (B, T, H, W), 1 for a real latent, 0 for padding; None if all are real.
        """
        error = prediction.astype(ms.float32) - self.target(x0, noise)
        return masked_mean(per_sample(self.loss_weights(sigma), x0) * error * error, mask)


class VPrediction:
    """x_t = sqrt(abar_t) * x0 + sqrt(1 - abar_t) * noise; the model predicts sqrt(abar_t) * noise - sqrt(1 - abar_t) * x0.

    Upstream trains with diffusers' DDPMScheduler and min-SNR weights.
    """

    def __init__(self, scheduler: VPredictionScheduler | EpsilonScheduler):
        self.scheduler = scheduler
        self.alphas_cumprod = Tensor(scheduler.alphas_cumprod())  # (1000,) float32; a Tensor, because graphs read it

    def draw(self, rng, batch: int) -> np.ndarray:
        """Draw (B,) numbers uniform in [0, 1) for `timesteps`. rng: a NumPy Generator or RandomState."""
        return rng.uniform(size=batch)

    def timesteps(self, draw: np.ndarray, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """One step per sample, stratified: each data-parallel rank draws from its own range of steps.

        Args:
            draw: (B,), see `draw`.

        Returns:
            float32 (B,), whole numbers from 0 to 999.
        """
        width = self.scheduler.num_train_timesteps / ranks
        steps = np.round(width * (rank + np.asarray(draw, np.float64)) - 0.5)
        return np.clip(steps, 0, self.scheduler.num_train_timesteps - 1).astype(np.float32)

    def add_noise(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t. x0, noise: (B, ...); timestep: (B,). Mixed in float32, returned in x0's dtype."""
        signal, spread = self._rates(timestep, x0)
        return (signal * x0.astype(ms.float32) + spread * noise.astype(ms.float32)).astype(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The v that the model learns to predict, float32. x0, noise: (B, ...); timestep: (B,)."""
        signal, spread = self._rates(timestep, x0)
        return signal * noise.astype(ms.float32) - spread * x0.astype(ms.float32)

    def snr(self, timestep: Tensor) -> Tensor:
        """Signal-to-noise ratio of variances, (B,) -> (B,); 0 at the last step."""
        alphas_cumprod = self._at(timestep)
        return alphas_cumprod / (1 - alphas_cumprod)

    def loss_weights(self, timestep: Tensor) -> Tensor:
        """Weight of each sample's squared error, (B,) -> (B,).

        Min-SNR (arXiv 2303.09556) for v. With zero terminal SNR the last step has weight 0, so the model does not learn
        it.
        """
        snr = self.snr(timestep)
        if self.scheduler.snr_gamma is None:
            return ops.ones_like(snr)
        return ops.minimum(snr, self.scheduler.snr_gamma) / (snr + 1)

    def loss(
        self, prediction: Tensor, x0: Tensor, noise: Tensor, timestep: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Weighted mean of (prediction - v)^2 over the real latents, float32. Arguments as in `FlowMatching.loss`."""
        error = prediction.astype(ms.float32) - self.target(x0, noise, timestep)
        return masked_mean(per_sample(self.loss_weights(timestep), x0) * error * error, mask)

    def _rates(self, timestep: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rates of the clip and of the noise in x_t, two (B, 1, 1, ...) that broadcast against x (B, ...)."""
        alphas_cumprod = per_sample(self._at(timestep), x)
        return ops.sqrt(alphas_cumprod), ops.sqrt(1 - alphas_cumprod)

    def _at(self, timestep: Tensor) -> Tensor:
        return ops.gather(self.alphas_cumprod, timestep.astype(ms.int32), 0)


class NoisePrediction(VPrediction):
    """The same x_t; the model predicts the noise, as v1.2's do. Min-SNR weights are divided by the SNR."""

    def offset(self, noise: Tensor, draw: Tensor) -> Tensor:
        """Noise with another mean in every sample and channel, upstream's noise_offset.

        Args:
            noise: (B, C, ...).
            draw: (B, C, 1, ...), normal.
        """
        return noise + 0.02 * draw

    def target(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The noise, float32."""
        return noise.astype(ms.float32)

    def loss_weights(self, timestep: Tensor) -> Tensor:
        """Weight of each sample's squared error, (B,) -> (B,): min-SNR for the noise."""
        snr = self.snr(timestep)
        if self.scheduler.snr_gamma is None:
            return ops.ones_like(snr)
        return ops.minimum(snr, self.scheduler.snr_gamma) / snr


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...) float32, which broadcasts against x (B, ...)."""
    return values.astype(ms.float32).reshape((-1,) + (1,) * (x.ndim - 1))


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of error (B, C, T, H, W) over the latents with mask (B, T, H, W) 1, or over all if mask is None."""
    if mask is None:
        return error.mean()
    mask = mask.astype(ms.float32).expand_dims(1)  # (B, 1, T, H, W)
    return (error * mask).sum() / (mask.sum() * error.shape[1])
