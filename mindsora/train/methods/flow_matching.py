"""Flow matching: SUV and its text encoders together, on cached latents (Open-Sora Plan v1.5)."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindsora.config import read_json
from mindsora.data.latents import Latents, prepare_latents
from mindsora.data.order import EpochOrder
from mindsora.data.source import Source
from mindsora.models import SUV, CLIPTextModel, T5Encoder
from mindsora.models.wfvae import WFVAEConfig
from mindsora.parallel.layout import Mesh
from mindsora.sampling import FlowMatchScheduler
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer
from mindsora.train.data_parallel import step_of
from mindsora.train.loop import Task, numbered
from mindsora.train.memory import recompute, train_in
from mindsora.train.methods.captioned_latents import LATENTS, PARTS, captioned_latents, noisy_loss
from mindsora.train.model_folder import exporter, model_index, start_from, with_widths
from mindsora.train.objectives import FlowMatching
from mindsora.train.recipe import DenoiserData, DenoiserRecipe

NOISY = 0.7  # sigma above which samples are mostly noise


class FlowMatchingLoss(nn.Cell):
    """Map latents, noise, sigma and token ids to the flow-matching loss.

    configs: upstream's config.json of each Cell, by its name here.
    """

    def __init__(self, configs: dict[str, dict], objective: FlowMatching):
        super().__init__()
        self.transformer = SUV.from_upstream(configs["transformer"])
        self.text_encoder = T5Encoder.from_upstream(configs["text_encoder"])
        self.text_encoder_2 = CLIPTextModel.from_upstream(configs["text_encoder_2"])
        self.objective = objective

    def construct(self, x0: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor, ids_2: Tensor):
        """x0, noise: (B, c, t, h, w); sigma: (B,); ids, mask, ids_2: (B, L) -> loss (), PARTS (1,)."""
        text = self.text_encoder(ids, mask)  # (B, L, D)
        pooled = self.text_encoder_2(ids_2)[0]  # (B, P); no mask, as in the pipeline
        x = self.objective.add_noise(x0, noise, sigma)
        velocity = self.transformer(
            x, 1000 * sigma, text.expand_dims(1), pooled.expand_dims(1), None, mask.expand_dims(1)
        )
        loss = self.objective.loss(velocity, x0, noise, sigma)
        return loss, noisy_loss(velocity - (noise - x0), sigma > NOISY)


def batches(
    data: DenoiserData, seed: int, clips: Source, latents: Latents, objective: FlowMatching, tokenizers
) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Return the function from a step's number to FlowMatchingLoss's arrays."""

    def sigmas(rng, x0):
        return objective.sigmas(objective.draw(rng, len(x0)), x0.shape[-2:])

    order = EpochOrder(seed, len(clips), data.batch)
    batch = captioned_latents(seed, order, clips, latents, sigmas, tokenizers, data.caption_dropout)
    return lambda step: batch(step)[:-1]  # CLIP gets no mask


def complete_configs(recipe: DenoiserRecipe, vae: WFVAEConfig, t5: T5Tokenizer, clip: CLIPTokenizer) -> dict:
    """Upstream's config.json of each Cell: the recipe's keys plus the widths that follow from other parts."""
    text = {"vocab_size": t5.processor.vocab_size()} | recipe.text_encoder
    text_2 = {
        "vocab_size": clip.tokenizer.get_vocab_size(),
        "eos_token_id": clip.end_id,
        "max_position_embeddings": clip.max_length,
    } | recipe.text_encoder_2
    widths = {
        "in_channels": vae.latent_dim,
        "out_channels": vae.latent_dim,
        "caption_channels": text.get("d_model"),
        "pooled_projection_dim": text_2.get("projection_dim"),
    }
    transformer = with_widths(recipe.transformer, widths)
    return {"transformer": transformer, "text_encoder": text, "text_encoder_2": text_2}


def prepare(recipe: DenoiserRecipe, clips: Source, mesh: Mesh) -> Task:
    """Prepare the training that completes the model folder `run.export`, which has the autoencoder and the tokenisers."""
    folder, data, seed = Path(recipe.run.export), recipe.data, recipe.run.seed
    t5 = T5Tokenizer.from_folder(folder / "tokenizer", data.max_text_lengths[0])
    clip = CLIPTokenizer.from_folder(folder / "tokenizer_2", data.max_text_lengths[1])
    objective = FlowMatching(FlowMatchScheduler.from_upstream(recipe.scheduler))
    vae = WFVAEConfig.from_upstream(read_json(folder / "vae" / "config.json"))
    configs = complete_configs(recipe, vae, t5, clip)
    ms.set_seed(seed)  # of the initial weights
    loss = FlowMatchingLoss(configs, objective).set_train()
    for name in configs:
        train_in(getattr(loss, name), recipe.run.precision)
    recompute(loss.transformer, recipe.run.recompute, recipe.run.recompute_feed_forward)
    if recipe.run.init is not None:
        start_from(loss, configs, Path(recipe.run.init))
    patch_size = configs["transformer"].get("patch_size", 2)
    index = model_index(loss.transformer, patch_size, vae, clips, data, recipe.sampling)

    def encode_and_batch():
        latents = prepare_latents(folder / "vae", Path(recipe.run.out) / LATENTS, clips)
        return numbered(batches(data, seed, clips, latents, objective, (t5, clip)))

    step = step_of(loss, recipe.optimizer, PARTS, mesh, recipe.parallel.zero)
    return Task(step, encode_and_batch, exporter(folder, loss, configs, recipe.scheduler, index))
