"""Noise levels of rectified flow in Open-Sora Plan v1.5 (class `OpenSoraPlanScheduler` upstream).

x_sigma = sigma * noise + (1 - sigma) * x0, the model predicts v = noise - x0 and is given the time 1000 * sigma.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from mindspore import Tensor

from mindsora.config import from_dict
from mindsora.errors import InputError, shown
from mindsora.ranges import Range, Rows, Scale, check_fields
from mindsora.sampling.configured import Configured
from mindsora.sampling.solvers import Step, Velocity, dpmpp_2m, euler
from mindsora.shapes import check_steps

_MAX_EXPONENT = 15  # exp(15) is 3 million: beyond that float32 has no sigma but 0 and 1
SOLVERS = ("euler", "dpmpp_2m")
WEIGHTINGS = ("logit_normal", "mode", "uniform", "sigma_sqrt", "cosmap")


@dataclass(frozen=True)
class FlowMatchScheduler(Configured):
    """Which noise levels are trained on and sampled at.

    Training and sampling can differ: v1.5 trains with dynamic shifting and samples with shift 7.

    Attributes:
        shift: a in sigma' = a sigma / (1 + (a - 1) sigma): larger than 1 spends more steps near pure noise.
        use_dynamic_shifting: a follows from the number of tokens in one frame, a = exp(k tokens + b), a line through
            (base_seq_len, base_shift) and (max_seq_len, max_shift); `shift` is ignored.
        sigma_eps: the smallest sigma.
        use_linear_quadratic_schedule: half of the steps at a constant small stride near pure noise, then
            quadratic; no shift on top. Needs an even number of steps.
        weighting: how training draws sigma, and how it weighs the loss; one of WEIGHTINGS.
        solver: of sampling; one of SOLVERS. Upstream has "euler".
    """

    shift: Scale = 1.0
    use_dynamic_shifting: bool = False
    base_shift: Annotated[float, Range(-10, 10)] = 0.5
    max_shift: Annotated[float, Range(-10, 10)] = 1.15
    base_seq_len: Rows = 256
    max_seq_len: Rows = 4096
    sigma_eps: float = 0.0
    use_linear_quadratic_schedule: bool = False
    weighting: str = "logit_normal"
    solver: str = "euler"

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.sigma_eps < 1:
            raise InputError(f"sigma_eps = {self.sigma_eps}: must be in [0, 1)")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting = {shown(self.weighting)}: must be one of {', '.join(WEIGHTINGS)}")
        if self.solver not in SOLVERS:
            raise InputError(f"solver = {shown(self.solver)}: must be {' or '.join(SOLVERS)}")
        if self.max_seq_len <= self.base_seq_len:
            raise InputError(f"max_seq_len {self.max_seq_len} must be above base_seq_len {self.base_seq_len}")

    @classmethod
    def from_upstream(cls, config: dict) -> "FlowMatchScheduler":
        """Build from a scheduler_config.json; an unknown key is an InputError."""
        return from_dict(cls, config)

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
                sigmas = self.shifted(sigmas, latent_size)
        sigmas = np.where(sigmas <= self.sigma_eps, self.sigma_eps, sigmas).astype(np.float32)
        return np.ascontiguousarray(sigmas[::-1]) if inversion else sigmas

    def steps(self, velocity: Velocity, noise: Tensor, num_inference_steps: int, rng=None) -> Iterator[Step]:
        """The steps from noise to data.

        Args:
            noise: unit noise (B, c, t, h, w).
            rng: not used: no step adds noise. VPredictionScheduler's steps need it, and pipelines call both alike.
        """
        sigmas = self.sigmas(num_inference_steps, noise.shape[-2:])
        if self.solver == "dpmpp_2m":
            return dpmpp_2m(velocity, noise, 1000 * sigmas[:-1].astype(np.float64), sigmas)
        return euler(velocity, noise, sigmas)

    def shifted(self, sigmas: np.ndarray, latent_size: tuple[int, int] | None) -> np.ndarray:
        """Sigmas after the (static or dynamic) shift. latent_size: latent (height, width); dynamic shifting needs it."""
        a = self.shift
        if self.use_dynamic_shifting:
            if latent_size is None:
                raise InputError("dynamic shifting needs the latent height and width")
            tokens = latent_size[0] * latent_size[1] // 4  # one frame, patches of 2 x 2; frames do not count
            k = (self.max_shift - self.base_shift) / (self.max_seq_len - self.base_seq_len)
            exponent = k * tokens + self.base_shift - k * self.base_seq_len
            if not abs(exponent) <= _MAX_EXPONENT:
                raise InputError(
                    f"dynamic shifting by exp({exponent:g}) for {tokens} tokens leaves no noise levels between 0 and 1"
                )
            a = math.exp(exponent)
        return a * sigmas / (1 + (a - 1) * sigmas)


def _linear_quadratic(n: int) -> np.ndarray:
    """The linear-quadratic schedule: its first half follows a fine grid of M steps, its second half is a parabola."""
    half, fine = n // 2, min(max(10 * n, 250), 1000) / 2
    i = np.arange(n)
    a = (fine - half) / (fine * half**2)
    b = (5 * half - 4 * fine) / (2 * fine * half)
    c = (fine - half) / fine
    return 1 - np.append(np.where(i < half, i / (2 * fine), a * i**2 + b * i + c), 1.0)
