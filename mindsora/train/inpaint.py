"""Inpainting training: OpenSoraInpaint and its text encoder together, v-prediction on cached latents of clips, beside
those of the same clips with frames hidden (Open-Sora Plan v1.3).

Noise is added to the clip's latents alone, and the loss covers all frames, the given ones too. Every sample weighs the
same: v1.3 has min-SNR weights for text-to-video and none here, where the last step, of pure noise, is learned as well.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops

from mindsora.data.order import EpochOrder
from mindsora.models import OpenSoraInpaint, T5Encoder
from mindsora.sampling import VPredictionScheduler
from mindsora.text.tokenizers import T5Tokenizer
from mindsora.train.denoiser import LATENTS, LatentLoss, latent_batches, loss_parts, train_model
from mindsora.train.latents import Latents, MaskedLatents, prepare_latents, prepare_masked_latents
from mindsora.train.objectives import VPrediction
from mindsora.train.recipe import InpaintRecipe

MASKED_LATENTS = "masked_latents.safetensors"
NOISY = (0.3 / 0.7) ** 2  # signal-to-noise ratio of flow matching's sigma = 0.7, below which samples are mostly noise


class InpaintLoss(LatentLoss):
    """Latents, noise, time, token ids and given frames to the v-prediction loss."""

    CELLS = {"transformer": OpenSoraInpaint, "text_encoder": T5Encoder}

    def construct(self, x0: Tensor, noise: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor, frames: Tensor):
        """x0, noise: (B, c, t, h, w); timestep: (B,); ids, mask: (B, L); frames: (B, c + r, t, h, w), latents of the
        clip with hidden frames, and the mask -> loss (), PARTS (1,)."""
        text = self.text_encoder(ids, mask)  # (B, L, D)
        x = ops.concat((self.objective.add_noise(x0, noise, timestep), frames), 1)
        velocity = self.transformer(x, timestep, text.expand_dims(1), None, None, mask.expand_dims(1))
        loss = self.objective.loss(velocity, x0, noise, timestep)
        error = velocity - self.objective.target(x0, noise, timestep)
        return loss, loss_parts(error, self.objective.snr(timestep) < NOISY)


def inpaint_batches(
    recipe: InpaintRecipe, latents: Latents, masked: MaskedLatents, objective: VPrediction, tokenizers
) -> Callable:
    """The function from a step's number to InpaintLoss's arrays."""
    data, seed = recipe.data, recipe.run.seed
    order = EpochOrder(seed, data.clips, data.batch)

    def timesteps(rng, x0):
        return objective.timesteps(objective.draw(rng, len(x0)))

    batch = latent_batches(recipe, latents, timesteps, tokenizers)

    def with_frames(step: int) -> tuple[np.ndarray, ...]:
        clips = order(step)
        draws = np.random.default_rng((seed, step, 1)).integers(data.draws, size=data.batch)
        return (*batch(step), masked.take(clips, draws))

    return with_frames


def train_inpaint(recipe: InpaintRecipe) -> None:
    """Encode the clips if need be, train, and complete the model folder `run.export`."""
    folder, out = Path(recipe.run.export), Path(recipe.run.out)
    tokenizers = (T5Tokenizer.from_folder(folder / "tokenizer", recipe.data.max_text_lengths[0]),)
    objective = VPrediction(VPredictionScheduler.from_upstream(recipe.scheduler))

    def batches():
        latents = prepare_latents(folder / "vae", out / LATENTS, recipe.data)
        masked = prepare_masked_latents(folder / "vae", out / MASKED_LATENTS, recipe.data, latents)
        return inpaint_batches(recipe, latents, masked, objective, tokenizers)

    train_model(recipe, InpaintLoss, objective, tokenizers, batches)
