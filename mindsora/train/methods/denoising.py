"""The losses of denoisers on latents and encoded text: flow matching (v1.5), v-prediction and inpainting (v1.3).

Shapes: B clips, c channels of t x h x w latents, L text tokens of width D, pooled text of width P.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindsora.train.methods.captioned_latents import noisy_loss
from mindsora.train.objectives import FlowMatching, VPrediction

NOISY_SIGMA = 0.7  # above it, samples are mostly noise
NOISY_SNR = (0.3 / 0.7) ** 2  # below it, likewise: the signal-to-noise ratio of that sigma


class FlowMatchingLoss(nn.Cell):
    """Loss of SUV."""

    def __init__(self, transformer: nn.Cell, objective: FlowMatching):
        super().__init__(auto_prefix=False)
        self.transformer, self.objective = transformer, objective

    def construct(self, x0, noise, sigma, text, text_mask, pooled, mask=None) -> tuple[Tensor, Tensor]:
        """x0, noise: (B, c, t, h, w); sigma: (B,); text: (B, 1, L, D); text_mask: (B, 1, L); pooled: (B, 1, P); mask:
        (B, t, h, w), 0 for padding -> loss (), parts (1,)."""
        x = self.objective.add_noise(x0, noise, sigma)
        velocity = self.transformer(x, 1000 * sigma, text, pooled, mask, text_mask)
        loss = self.objective.loss(velocity, x0, noise, sigma, mask)
        error = velocity.astype(ms.float32) - self.objective.target(x0, noise)
        return loss, noisy_loss(error, sigma > NOISY_SIGMA)


class VPredictionLoss(nn.Cell):
    """Loss of v1.3's text-to-video denoiser."""

    def __init__(self, transformer: nn.Cell, objective: VPrediction):
        super().__init__(auto_prefix=False)
        self.transformer, self.objective = transformer, objective

    def construct(self, x0, noise, timestep, text, text_mask, mask=None) -> tuple[Tensor, Tensor]:
        """As FlowMatchingLoss, with the training step (B,) in place of sigma, and without pooled text."""
        return self.of(x0, noise, timestep, text, text_mask, self.objective.add_noise(x0, noise, timestep), mask)

    def of(self, x0, noise, timestep, text, text_mask, x, mask) -> tuple[Tensor, Tensor]:
        """Loss of the prediction from the denoiser's input x (B, C, t, h, w)."""
        velocity = self.transformer(x, timestep, text, None, mask, text_mask)
        loss = self.objective.loss(velocity, x0, noise, timestep, mask)
        error = velocity.astype(ms.float32) - self.objective.target(x0, noise, timestep)
        return loss, noisy_loss(error, self.objective.snr(timestep) < NOISY_SNR)


class InpaintingLoss(VPredictionLoss):
    """Loss of v1.3's denoiser that takes frames. It covers all frames, the given ones too."""

    def construct(self, x0, noise, timestep, text, text_mask, frames, mask=None) -> tuple[Tensor, Tensor]:
        """frames: (B, c + r, t, h, w), latents of the clip with hidden frames, then its mask. x0 alone gets noise."""
        x = ops.concat((self.objective.add_noise(x0, noise, timestep), frames), 1)
        return self.of(x0, noise, timestep, text, text_mask, x, mask)
