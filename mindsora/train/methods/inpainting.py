"""Inpainting: train OpenSoraInpaint and its text encoder together, by v-prediction on cached latents of clips and of the
same clips with frames hidden (Open-Sora Plan v1.3).

Noise is added to the clip's latents only, and the loss covers all frames, including the given ones. All samples have
equal weight: v1.3 uses min-SNR weights for text-to-video but not for inpainting, so the model also learns the last step,
which is pure noise.
"""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.config import read_json
from mindsora.data.latents import Latents, MaskedLatents, prepare_latents, prepare_masked_latents
from mindsora.data.order import EpochOrder
from mindsora.data.source import Source
from mindsora.models import OpenSoraInpaint, T5Encoder
from mindsora.models.wfvae import WFVAEConfig
from mindsora.parallel.layout import Mesh
from mindsora.sampling import VPredictionScheduler
from mindsora.text.tokenizers import T5Tokenizer
from mindsora.train.data_parallel import step_of
from mindsora.train.loop import Task, numbered
from mindsora.train.memory import recompute, train_in
from mindsora.train.methods.captioned_latents import LATENTS, PARTS, captioned_latents, noisy_loss
from mindsora.train.model_folder import exporter, model_index, start_from, with_widths
from mindsora.train.objectives import VPrediction
from mindsora.train.recipe import InpaintData, InpaintRecipe

MASKED_LATENTS = "masked_latents.safetensors"
NOISY = (0.3 / 0.7) ** 2  # signal-to-noise ratio of flow matching's sigma = 0.7, below which samples are mostly noise


class InpaintLoss(nn.Cell):
    """Map latents, noise, time, token ids and given frames to the v-prediction loss.

    configs: upstream's config.json of each Cell, by its name here.
    """

    def __init__(self, configs: dict[str, dict], objective: VPrediction):
        super().__init__()
        self.transformer = OpenSoraInpaint.from_upstream(configs["transformer"])
        self.text_encoder = T5Encoder.from_upstream(configs["text_encoder"])
        self.objective = objective

    def construct(self, x0: Tensor, noise: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor, frames: Tensor):
        """x0, noise: (B, c, t, h, w); timestep: (B,); ids, mask: (B, L); frames: (B, c + r, t, h, w), latents of the
        clip with hidden frames, then the mask -> loss (), PARTS (1,)."""
        text = self.text_encoder(ids, mask)  # (B, L, D)
        x = ops.concat((self.objective.add_noise(x0, noise, timestep), frames), 1)
        velocity = self.transformer(x, timestep, text.expand_dims(1), None, None, mask.expand_dims(1))
        loss = self.objective.loss(velocity, x0, noise, timestep)
        error = velocity - self.objective.target(x0, noise, timestep)
        return loss, noisy_loss(error, self.objective.snr(timestep) < NOISY)


def batches(
    data: InpaintData,
    seed: int,
    clips: Source,
    latents: Latents,
    masked: MaskedLatents,
    objective: VPrediction,
    tokenizer: T5Tokenizer,
) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Return the function from a step's number to InpaintLoss's arrays."""

    def timesteps(rng, x0):
        return objective.timesteps(objective.draw(rng, len(x0)))

    order = EpochOrder(seed, len(clips), data.batch)
    batch = captioned_latents(seed, order, clips, latents, timesteps, (tokenizer,), data.caption_dropout)

    def with_frames(step: int) -> tuple[np.ndarray, ...]:
        draws = np.random.default_rng((seed, step, 1)).integers(data.draws, size=data.batch)
        return (*batch(step), masked.take(order(step), draws))

    return with_frames


def complete_configs(recipe: InpaintRecipe, vae: WFVAEConfig, t5: T5Tokenizer) -> dict[str, dict]:
    """Upstream's config.json of each Cell: the recipe's keys plus the widths that follow from other parts."""
    text = {"vocab_size": t5.processor.vocab_size()} | recipe.text_encoder
    widths = {
        "in_channels": vae.latent_dim,
        "out_channels": vae.latent_dim,
        "caption_channels": text.get("d_model"),
        "vae_scale_factor_t": vae.temporal_stride,
    }
    return {"transformer": with_widths(recipe.transformer, widths), "text_encoder": text}


def prepare(recipe: InpaintRecipe, clips: Source, mesh: Mesh) -> Task:
    """Prepare the training that completes the model folder `run.export`, which has the autoencoder and the tokeniser."""
    folder, out, data, seed = Path(recipe.run.export), Path(recipe.run.out), recipe.data, recipe.run.seed
    t5 = T5Tokenizer.from_folder(folder / "tokenizer", data.max_text_lengths[0])
    objective = VPrediction(VPredictionScheduler.from_upstream(recipe.scheduler))
    vae = WFVAEConfig.from_upstream(read_json(folder / "vae" / "config.json"))
    configs = complete_configs(recipe, vae, t5)
    ms.set_seed(seed)  # of the initial weights
    loss = InpaintLoss(configs, objective).set_train()
    for name in configs:
        train_in(getattr(loss, name), recipe.run.precision)
    recompute(loss.transformer, recipe.run.recompute, recipe.run.recompute_feed_forward)
    if recipe.run.init is not None:
        start_from(loss, configs, Path(recipe.run.init))
    patch_size = configs["transformer"].get("patch_size", 2)
    index = model_index(loss.transformer, patch_size, vae, clips, data, recipe.sampling)

    def encode_and_batch():
        latents = prepare_latents(folder / "vae", out / LATENTS, clips)
        masked = prepare_masked_latents(folder / "vae", out / MASKED_LATENTS, clips, data.tasks, data.draws, latents)
        return numbered(batches(data, seed, clips, latents, masked, objective, t5))

    step = step_of(loss, recipe.optimizer, PARTS, mesh, recipe.parallel.zero)
    return Task(step, encode_and_batch, exporter(folder, loss, configs, recipe.scheduler, index))
