"""Noise levels of diffusion in 1000 steps: v-prediction with zero terminal SNR (arXiv 2305.08891) in Open-Sora Plan
v1.3, and noise prediction in v1.2.

At step t of 1000 the sample is x_t = sqrt(abar_t) * x0 + sqrt(1 - abar_t) * noise. v1.3's models predict
v = sqrt(abar_t) * noise - sqrt(1 - abar_t) * x0, v1.2's the noise. Upstream samples with diffusers'
EulerAncestralDiscreteScheduler, which works on x_t / sqrt(abar_t) and sigma = sqrt(1 / abar_t - 1); v1.2's image to
video with its PNDMScheduler.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindsora.config import from_dict
from mindsora.errors import InputError, shown
from mindsora.ranges import Scale, check_fields
from mindsora.sampling.configured import Configured
from mindsora.sampling.solvers import Step, Velocity, dpmpp_2m, euler_ancestral, pndm
from mindsora.shapes import MAX_STEPS, PNDM_STEPS, check_steps

SPACINGS = ("trailing", "leading", "linspace")
# Keys of diffusers' two configurations without effect here: a DDPM sampler's, and clipping, which latents never get.
IGNORED = {
    "variance_type",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
}
# diffusers' defaults of absent keys. Its own files have all keys; older files can lack the newest.
DIFFUSERS = {
    "EulerAncestralDiscreteScheduler": {"timestep_spacing": "linspace"},
    "DDPMScheduler": {"timestep_spacing": "leading"},
    "PNDMScheduler": {"timestep_spacing": "leading"},
}
_PNDM = {"skip_prk_steps": False, "set_alpha_to_one": False}  # diffusers' PNDM as v1.2 samples with it
ABSENT = {"beta_schedule": "linear", "prediction_type": "epsilon", "rescale_betas_zero_snr": False}


@dataclass(frozen=True)
class _DiffusionScheduler(Configured):
    """Which noise levels are trained on and sampled at.

    Attributes:
        num_train_timesteps: 1000.
        beta_start, beta_end: the ends of the linear beta schedule.
        rescale_betas_zero_snr: stretch it so that the last step is pure noise.
        timestep_spacing: of sampling. "trailing" begins at the last training step, as zero terminal SNR needs;
            "leading", v1.3's choice without zero terminal SNR, ends at the first; "linspace", v1.2's choice, has both
            ends, and times between whole steps.
        steps_offset: added to the steps of "leading".
        snr_gamma: training gives a sample the weight of min(SNR, snr_gamma); None gives all the same weight. v1.3 has 5
            for text-to-video and none for inpainting, v1.2 has 5.
        solver: of sampling; one of `solvers`. Upstream samples with "euler_ancestral", and v1.2's image to video with
            "pndm", which needs "leading" steps and takes three evaluations more in each of its first three.
    """

    prediction_type: ClassVar[str]
    solvers: ClassVar[tuple[str, ...]] = ("euler_ancestral", "dpmpp_2m")
    num_train_timesteps: int = MAX_STEPS
    beta_start: float = 1e-4
    beta_end: float = 2e-2
    rescale_betas_zero_snr: bool = True
    timestep_spacing: str = "trailing"
    steps_offset: int = 0
    snr_gamma: Scale | None = 5.0
    solver: str = "euler_ancestral"

    def __post_init__(self):
        check_fields(self)
        if self.solver not in self.solvers:
            raise InputError(
                f"solver = {shown(self.solver)}: must be {', '.join(self.solvers[:-1])} or {self.solvers[-1]}"
            )
        if self.num_train_timesteps != MAX_STEPS:
            raise InputError(f"num_train_timesteps = {self.num_train_timesteps}: must be {MAX_STEPS}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise InputError(f"beta_start, beta_end = {self.beta_start}, {self.beta_end}: must rise between 0 and 1")
        if self.timestep_spacing not in SPACINGS:
            raise InputError(f"timestep_spacing = {shown(self.timestep_spacing)}: must be {' or '.join(SPACINGS)}")
        if self.steps_offset not in (0, 1):
            raise InputError(f"steps_offset = {self.steps_offset}: must be 0 or 1")

    @classmethod
    def from_upstream(cls, config: dict):
        """Build from the scheduler_config.json of one of diffusers' schedulers, or from our own.

        Raises:
            InputError: an unknown key, or a setting that is not implemented (another prediction type or beta schedule).
        """
        name = config.get("_class_name")
        if name in cls.upstream:
            config = ABSENT | DIFFUSERS[name] | config
        elif name not in (None, cls.__name__):
            raise InputError(f"_class_name = {shown(name)}: must be {cls.__name__}, {' or '.join(cls.upstream)}")
        fixed = {"prediction_type": cls.prediction_type, "beta_schedule": "linear", "trained_betas": None}
        for key, only in fixed.items():
            if config.get(key, only) != only:
                raise InputError(f"{key} = {shown(config[key])}: only {only!r} is implemented in {cls.__name__}")
        return from_dict(cls, config, IGNORED | set(fixed))

    def alphas_cumprod(self) -> np.ndarray:
        """abar of every training step, float32 (1000,)."""
        # Rounded to float32 where upstream rounds, because 1 - abar is small at first: without it the SNR of steps 0
        # and 1 is 2e-4 away from the one that the released weights were trained with.
        betas = np.linspace(self.beta_start, self.beta_end, self.num_train_timesteps, dtype=np.float32)
        alphas_cumprod = np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)
        if self.rescale_betas_zero_snr:  # the first stays, the last becomes 0
            root = np.sqrt(alphas_cumprod)
            alphas_cumprod = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        return alphas_cumprod

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
        elif self.timestep_spacing == "linspace":
            steps = np.linspace(self.num_train_timesteps - 1, 0, num_inference_steps)
        else:
            steps = i[::-1] * (self.num_train_timesteps // num_inference_steps) + self.steps_offset
        return steps.astype(np.float32)

    def sigmas(self, num_inference_steps: int) -> np.ndarray:
        """Noise levels at `timesteps`, and 0: float32 (n + 1,)."""
        alphas_cumprod = self.alphas_cumprod().astype(np.float64)
        if self.rescale_betas_zero_snr:
            alphas_cumprod[-1] = 2.0**-24  # its 0 would give an infinite sigma; this gives 4096, diffusers' choice
        table = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)
        steps = self.timesteps(num_inference_steps)
        return np.append(np.interp(steps, np.arange(len(table)), table), 0).astype(np.float32)

    def init_noise_sigma(self, num_inference_steps: int) -> float:
        """Standard deviation of the latents that sampling starts from."""
        sigma = float(self.sigmas(num_inference_steps)[0])
        return (sigma**2 + 1) ** 0.5 if self.timestep_spacing == "leading" else sigma

    def steps(
        self, velocity: Velocity, noise: Tensor, num_inference_steps: int, rng: np.random.RandomState
    ) -> Iterator[Step]:
        """The steps from noise to data.

        Args:
            noise: unit noise (B, ...).
            rng: the RandomState that drew `noise`; every step of "euler_ancestral" draws from it.
        """
        timesteps, sigmas = self.timesteps(num_inference_steps), self.sigmas(num_inference_steps)
        if self.solver == "dpmpp_2m":
            return dpmpp_2m(velocity, noise, timesteps, sigmas, self.prediction_type)
        x = (noise.astype(ms.float32) * self.init_noise_sigma(num_inference_steps)).astype(noise.dtype)
        return euler_ancestral(velocity, x, timesteps, sigmas, rng, self.prediction_type)


@dataclass(frozen=True)
class VPredictionScheduler(_DiffusionScheduler):
    """Of models that predict v, with `euler_ancestral`. The defaults are v1.3's; min-SNR weights are divided by SNR + 1."""

    prediction_type: ClassVar[str] = "v_prediction"
    upstream: ClassVar[tuple[str, ...]] = ("EulerAncestralDiscreteScheduler", "DDPMScheduler")


@dataclass(frozen=True)
class EpsilonScheduler(_DiffusionScheduler):
    """Of models that predict the noise. The defaults are those of v1.2's text to video."""

    prediction_type: ClassVar[str] = "epsilon"
    upstream: ClassVar[tuple[str, ...]] = ("EulerAncestralDiscreteScheduler", "DDPMScheduler", "PNDMScheduler")
    rescale_betas_zero_snr: bool = False
    solvers: ClassVar[tuple[str, ...]] = ("euler_ancestral", "dpmpp_2m", "pndm")
    timestep_spacing: str = "linspace"

    def __post_init__(self):
        super().__post_init__()
        if self.rescale_betas_zero_snr:
            raise InputError("rescale_betas_zero_snr = True: noise says nothing of the clip where there is no signal")
        if self.solver == "pndm" and self.timestep_spacing != "leading":
            raise InputError(f"timestep_spacing = {shown(self.timestep_spacing)}: must be 'leading' with solver 'pndm'")

    @classmethod
    def from_upstream(cls, config: dict) -> "EpsilonScheduler":
        """As of the base class; of diffusers' PNDMScheduler too, with its Runge-Kutta warm-up.

        Raises:
            InputError: also a PNDM without that warm-up, or with another last level.
        """
        config = dict(config)
        if config.get("_class_name") == "PNDMScheduler":
            for key, only in _PNDM.items():
                if config.pop(key, only) != only:
                    raise InputError(f"{key} = {not only}: only {only} is implemented")
            config["solver"] = "pndm"
        return super().from_upstream(config)

    def steps(
        self, velocity: Velocity, noise: Tensor, num_inference_steps: int, rng: np.random.RandomState
    ) -> Iterator[Step]:
        """As of the base class; with "pndm" no step draws noise, and the latents keep unit scale."""
        if self.solver != "pndm":
            return super().steps(velocity, noise, num_inference_steps, rng)
        check_steps(num_inference_steps, least=PNDM_STEPS)
        return pndm(velocity, noise, self.timesteps(num_inference_steps).astype(int), self.alphas_cumprod())
