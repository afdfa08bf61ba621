"""v-prediction with zero terminal SNR (arXiv 2305.08891) as Open-Sora Plan v1.3 trains and samples it.

At step t of 1000 the sample is x_t = sqrt(abar_t) * x0 + sqrt(1 - abar_t) * noise, and the model predicts
v = sqrt(abar_t) * noise - sqrt(1 - abar_t) * x0. Training is upstream's DDPMScheduler with min-SNR weights, sampling its
EulerAncestralDiscreteScheduler (both diffusers), which works on x_t / sqrt(abar_t) and sigma = sqrt(1 / abar_t - 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.config import from_dict
from mindsora.errors import InputError
from mindsora.sampling.flow_matching import masked_mean, per_sample
from mindsora.shapes import MAX_STEPS, check_steps

SPACINGS = ("trailing", "leading")
# Keys of diffusers' two configurations that say nothing here: a DDPM sampler's, and clipping, which latents never get.
IGNORED = {
    "variance_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
}
# What diffusers means by a key that is not there. Its own files hold them all; older ones may lack the newest.
DIFFUSERS = {
    "EulerAncestralDiscreteScheduler": {"timestep_spacing": "linspace"},
    "DDPMScheduler": {"timestep_spacing": "leading"},
}
ABSENT = {"beta_schedule": "linear", "prediction_type": "epsilon", "rescale_betas_zero_snr": False}


@dataclass(frozen=True)
class VPredictionScheduler:
    """Which noise levels are trained on and sampled at. The defaults are v1.3's.

    Attributes:
        num_train_timesteps: 1000.
        beta_start, beta_end: the ends of the linear beta schedule.
        rescale_betas_zero_snr: stretch it so that the last step is pure noise.
        timestep_spacing: of sampling. "trailing" begins at the last training step, which zero terminal SNR needs;
            "leading", which v1.3 takes without zero terminal SNR, ends at the first.
        steps_offset: added to the steps of "leading".
        snr_gamma: training weighs a sample min(SNR, snr_gamma) / (SNR + 1); None gives all the same weight. v1.3 has 5
            for text-to-video and none for inpainting.
    """

    num_train_timesteps: int = MAX_STEPS
    beta_start: float = 1e-4
    beta_end: float = 2e-2
    rescale_betas_zero_snr: bool = True
    timestep_spacing: str = "trailing"
    steps_offset: int = 0
    snr_gamma: float | None = 5.0

    def __post_init__(self):
        if self.num_train_timesteps != MAX_STEPS:
            raise InputError(f"num_train_timesteps = {self.num_train_timesteps}: must be {MAX_STEPS}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise InputError(f"beta_start, beta_end = {self.beta_start}, {self.beta_end}: must rise between 0 and 1")
        if self.timestep_spacing not in SPACINGS:
            raise InputError(f"timestep_spacing = {self.timestep_spacing!r}: must be {' or '.join(SPACINGS)}")
        if self.steps_offset not in (0, 1):
            raise InputError(f"steps_offset = {self.steps_offset}: must be 0 or 1")
        if self.snr_gamma is not None and not self.snr_gamma > 0:
            raise InputError(f"snr_gamma = {self.snr_gamma}: must be positive, or null for no weighting")
        # Not a field: it follows from them. A Tensor, because graphs read it.
        object.__setattr__(self, "alphas_cumprod", Tensor(self._alphas_cumprod()))

    @classmethod
    def from_upstream(cls, config: dict) -> "VPredictionScheduler":
        """Build from the scheduler_config.json of diffusers' Euler-ancestral or DDPM scheduler, or from our own.

        Raises:
            InputError: an unknown key, or a setting that is not implemented (another prediction type or beta schedule).
        """
        name = config.get("_class_name")
        if name in DIFFUSERS:
            config = ABSENT | DIFFUSERS[name] | config
        elif name not in (None, cls.__name__):
            raise InputError(f"_class_name = {name!r}: must be {cls.__name__}, {' or '.join(DIFFUSERS)}")
        for key, only in (("prediction_type", "v_prediction"), ("beta_schedule", "linear"), ("trained_betas", None)):
            if config.get(key, only) != only:
                raise InputError(f"{key} = {config[key]!r}: only {only!r} is implemented")
        return from_dict(cls, config, IGNORED | {"prediction_type", "beta_schedule", "trained_betas"})

    def _alphas_cumprod(self) -> np.ndarray:
        """abar, float32 (1000,)."""
        # Rounded to float32 where upstream rounds, because 1 - abar is small at first: the SNR of steps 0 and 1
        # would else be 2e-4 away from the one that the released weights were trained with.
        betas = np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps, dtype=np.float32)
        alphas_cumprod = np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)
        if self.rescale_betas_zero_snr:  # the first stays, the last becomes 0
            root = np.sqrt(alphas_cumprod)
            alphas_cumprod = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        return alphas_cumprod

    # Sampling

    def timesteps(self, num_inference_steps: int) -> np.ndarray:
        """Training steps that sampling visits, descending, float32 (n,): the model's times.

        Args:
            num_inference_steps: n, 1 to 1000.
        """
        check_steps(num_inference_steps)
        i = np.arange(num_inference_steps)
        if self.timestep_spacing == "trailing":
            stride = self.num_train_timesteps / num_inference_steps
            steps = np.round(self.num_train_timesteps - stride * i) - 1
        else:
            steps = i[::-1] * (self.num_train_timesteps // num_inference_steps) + self.steps_offset
        return steps.astype(np.float32)

    def sigmas(self, num_inference_steps: int) -> np.ndarray:
        """Noise levels at `timesteps`, and 0: float32 (n + 1,)."""
        alphas_cumprod = self.alphas_cumprod.asnumpy().astype(np.float64)
        if self.rescale_betas_zero_snr:
            alphas_cumprod[-1] = 2.0**-24  # its 0 would give an infinite sigma; this gives 4096, diffusers' choice
        table = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
        steps = self.timesteps(num_inference_steps)
        return np.append(np.interp(steps, np.arange(len(table)), table), 0).astype(np.float32)

    def init_noise_sigma(self, num_inference_steps: int) -> float:
        """Standard deviation of the latents that sampling starts from."""
        sigma = float(self.sigmas(num_inference_steps)[0])
        return sigma if self.timestep_spacing == "trailing" else (sigma**2 + 1) ** 0.5

    def sample(
        self,
        velocity: Callable,
        noise: Tensor,
        num_inference_steps: int,
        rng,
        callback: Callable | None = None,
    ) -> Tensor:
        """From noise to data with `euler_ancestral`.

        Args:
            velocity: (x, timestep as a float) -> Tensor shaped like x.
            noise: unit noise (B, ...).
            rng: the RandomState that `noise` came from; goes on with the noise of every step.
            callback: (step, timestep, x) after each step -> the x to go on with.
        """
        x = (noise.astype(ms.float32) * self.init_noise_sigma(num_inference_steps)).astype(noise.dtype)
        steps, sigmas = self.timesteps(num_inference_steps), self.sigmas(num_inference_steps)
        return euler_ancestral(velocity, x, steps, sigmas, rng, callback)

    # Training

    def draw(self, rng, batch: int) -> np.ndarray:
        """What `training_timesteps` starts from: uniform in [0, 1). rng: a NumPy Generator or RandomState."""
        return rng.uniform(size=batch)

    def training_timesteps(self, draw: np.ndarray, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """One step per sample, stratified: each of the data-parallel ranks draws from its own stretch of the steps.

        Args:
            draw: (B,), see `draw`.

        Returns:
            float32 (B,), whole numbers from 0 to 999.
        """
        width = self.num_train_timesteps / ranks
        steps = np.round(width * (rank + np.asarray(draw, np.float64)) - 0.5)
        return np.clip(steps, 0, self.num_train_timesteps - 1).astype(np.float32)

    def add_noise(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t. x0, noise: (B, ...); timestep: (B,). Mixed in float32, returned in x0's dtype."""
        signal, spread = self._rates(timestep, x0)
        return (signal * x0.astype(ms.float32) + spread * noise.astype(ms.float32)).astype(x0.dtype)

    def velocity(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The v that the model learns to predict, float32. x0, noise: (B, ...); timestep: (B,)."""
        signal, spread = self._rates(timestep, x0)
        return signal * noise.astype(ms.float32) - spread * x0.astype(ms.float32)

    def _rates(self, timestep: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        alphas_cumprod = per_sample(self._at(timestep), x)
        return ops.sqrt(alphas_cumprod), ops.sqrt(1 - alphas_cumprod)

    def _at(self, timestep: Tensor) -> Tensor:
        return ops.gather(self.alphas_cumprod, timestep.astype(ms.int32), 0)

    def snr(self, timestep: Tensor) -> Tensor:
        """Signal-to-noise ratio of variances, (B,) -> (B,); 0 at the last step."""
        alphas_cumprod = self._at(timestep)
        return alphas_cumprod / (1 - alphas_cumprod)

    def loss_weights(self, timestep: Tensor) -> Tensor:
        """Weight of each sample's squared error, (B,) -> (B,).

        Min-SNR (arXiv 2303.09556) for v. With zero terminal SNR the last step weighs nothing, so it is not learned.
        """
        snr = self.snr(timestep)
        if self.snr_gamma is None:
            return ops.ones_like(snr)
        return ops.minimum(snr, self.snr_gamma) / (snr + 1)

    def loss(
        self, prediction: Tensor, x0: Tensor, noise: Tensor, timestep: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Weighted mean of (prediction - v)^2 over the real latents, float32.

        Args:
            prediction, x0, noise: (B, C, T, H, W).
            timestep: (B,).
            mask: (B, T, H, W), 1 for a real latent, 0 for padding; None where all are real.
        """
        error = prediction.astype(ms.float32) - self.velocity(x0, noise, timestep)
        return masked_mean(per_sample(self.loss_weights(timestep), x0) * error * error, mask)


def euler_ancestral(
    velocity: Callable, x: Tensor, timesteps: np.ndarray, sigmas: np.ndarray, rng, callback: Callable | None = None
) -> Tensor:
    """Euler steps down to sigma_down, each followed by fresh noise up to the next sigma (k-diffusion's sampler).

    Each step runs in float32 and returns to the dtype of the velocity.

    Args:
        velocity: (x / sqrt(sigma^2 + 1), timestep as a float) -> v, a Tensor shaped like x.
        x: (B, ...) at sigmas[0].
        timesteps, sigmas: (n,) and (n + 1,).
        rng: its `standard_normal(shape)` gives the noise; drawn at the last step too, where it counts for nothing.
        callback: (step, timestep, x) after each step -> the x to go on with.
    """
    for step, timestep in enumerate(timesteps):
        # Python floats: sigma_down is the small difference of large numbers, which float32 would leave four digits of.
        sigma, sigma_next = float(sigmas[step]), float(sigmas[step + 1])
        sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        sigma_down = sigma_next**2 / sigma  # sqrt(sigma_next^2 - sigma_up^2)
        scale = (sigma**2 + 1) ** 0.5
        h = x.astype(ms.float32)
        v = velocity((h / scale).astype(x.dtype), float(timestep))
        noise = Tensor(rng.standard_normal(x.shape).astype(np.float32))
        x0 = h / scale**2 - v.astype(ms.float32) * (sigma / scale)
        x = (h + (h - x0) / sigma * (sigma_down - sigma) + sigma_up * noise).astype(v.dtype)
        if callback is not None:
            x = callback(step, float(timestep), x)
    return x
