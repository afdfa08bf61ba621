"""Fine-tuning a denoiser on a few clips: their latents and their encoded captions stay in memory."""

from collections.abc import Callable
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindsora.data.order import EpochOrder
from mindsora.train.methods.captioned_latents import noisy_loss
from mindsora.train.objectives import FlowMatching, VPrediction

NOISY_SIGMA = 0.7  # above it, samples are mostly noise
NOISY_SNR = (0.3 / 0.7) ** 2  # below it, likewise: the signal-to-noise ratio of that sigma


class Encoded(NamedTuple):
    """Clips and captions as the denoiser sees them. The last row of the texts is the empty caption.

    Attributes:
        mean, deviation: of the normalised latents, (N, c, t, h, w) float32.
        text: (N + 1, 1, L, D).
        mask: (N + 1, 1, L), 1 for tokens.
        pooled: (N + 1, 1, P), or None for v1.3.
    """

    mean: np.ndarray
    deviation: np.ndarray
    text: np.ndarray
    mask: np.ndarray
    pooled: np.ndarray | None


class FlowMatchingLoss(nn.Cell):
    """Loss of SUV on latents and encoded text."""

    def __init__(self, transformer: nn.Cell, objective: FlowMatching):
        super().__init__(auto_prefix=False)
        self.transformer, self.objective = transformer, objective

    def construct(self, x0: Tensor, noise: Tensor, sigma: Tensor, text: Tensor, mask: Tensor, pooled: Tensor):
        """x0, noise: (B, c, t, h, w); sigma: (B,); text (B, 1, L, D); mask (B, 1, L); pooled (B, 1, P) -> loss (),
        parts (1,)."""
        x = self.objective.add_noise(x0, noise, sigma)
        velocity = self.transformer(x, 1000 * sigma, text, pooled, None, mask)
        loss = self.objective.loss(velocity, x0, noise, sigma)
        error = velocity.astype(ms.float32) - self.objective.target(x0, noise)
        return loss, noisy_loss(error, sigma > NOISY_SIGMA)


class VPredictionLoss(nn.Cell):
    """Loss of v1.3's text-to-video denoiser on latents and encoded text."""

    def __init__(self, transformer: nn.Cell, objective: VPrediction):
        super().__init__(auto_prefix=False)
        self.transformer, self.objective = transformer, objective

    def construct(self, x0: Tensor, noise: Tensor, timestep: Tensor, text: Tensor, mask: Tensor):
        """As FlowMatchingLoss, with a training step (B,) in place of sigma, and without pooled text."""
        x = self.objective.add_noise(x0, noise, timestep)
        velocity = self.transformer(x, timestep, text, None, None, mask)
        loss = self.objective.loss(velocity, x0, noise, timestep)
        error = velocity.astype(ms.float32) - self.objective.target(x0, noise, timestep)
        return loss, noisy_loss(error, self.objective.snr(timestep) < NOISY_SNR)


def batches(
    encoded: Encoded, levels: Callable, seed: int, batch: int, dropout: float
) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Return the function from a step's number to the arrays of a loss.

    Args:
        levels: (rng, x0 (B, c, t, h, w)) -> noise levels (B,), in the objective's units.
        batch: clips per step; more than there are repeats some.
        dropout: share of captions replaced by the empty one.
    """
    clips = len(encoded.mean)
    order = EpochOrder(seed, clips, batch)

    def arrays(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng((seed, step))
        indices = order(step)
        shape = (batch, *encoded.mean.shape[1:])
        x0 = encoded.mean[indices] + encoded.deviation[indices] * rng.standard_normal(shape, np.float32)
        noise = rng.standard_normal(shape, np.float32)
        level = levels(rng, x0)
        texts = np.where(rng.random(batch) < dropout, clips, indices)
        conditions = (encoded.text, encoded.mask) if encoded.pooled is None else (encoded.text, encoded.mask, encoded.pooled)
        return (x0, noise, level, *(rows[texts] for rows in conditions))

    return arrays
