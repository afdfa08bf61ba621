"""Denoiser training: SUV and its text encoders together, flow matching on cached latents (Open-Sora Plan v1.5).

What the inpainting model's training shares with it is here too; `mindsora.train.inpaint` has the rest.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.ckpt_convert import load
from mindsora.config import from_dict, read_json
from mindsora.data.captions import caption
from mindsora.data.order import EpochOrder
from mindsora.data.procedural import FPS, draw
from mindsora.errors import InputError
from mindsora.models import SUV, CLIPTextModel, T5Encoder, registry
from mindsora.models.wfvae import WFVAEConfig
from mindsora.sampling import FlowMatchScheduler
from mindsora.shapes import SPATIAL_STRIDE
from mindsora.text.templates import template_for
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer
from mindsora.train.checkpoint import averaged_weights
from mindsora.train.export import export_model, write_json
from mindsora.train.latents import Latents, prepare_latents
from mindsora.train.loop import train
from mindsora.train.objectives import FlowMatching
from mindsora.train.recipe import DenoiserRecipe, LatentRecipe
from mindsora.zoo import ModelIndex

PARTS = ("noisy_loss",)  # of the samples with sigma > 0.7, where shape and motion are decided
TEMPLATE = "nano"
LATENTS = "latents.safetensors"
WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


class LatentLoss(nn.Cell):
    """The parts of every denoiser's loss: the Cells that are trained, of classes CELLS, and the objective."""

    CELLS: dict[str, type]

    def __init__(self, configs: dict[str, dict], objective):
        super().__init__()
        for name, cell in self.CELLS.items():
            setattr(self, name, cell.from_upstream(configs[name]))
        self.objective = objective


def loss_parts(error: Tensor, noisy: Tensor) -> Tensor:
    """error (B, c, t, h, w), and which samples are mostly noise (B,) -> PARTS (1,)."""
    noisy = noisy.astype(error.dtype)
    squares = (error * error).reshape(error.shape[0], -1).mean(1)  # (B,)
    return ops.stack(((squares * noisy).sum() / (noisy.sum() + 1e-6),))


class DenoiserLoss(LatentLoss):
    """Latents, noise, sigma and token ids to the flow-matching loss."""

    CELLS = {"transformer": SUV, "text_encoder": T5Encoder, "text_encoder_2": CLIPTextModel}

    def construct(self, x0: Tensor, noise: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor, ids_2: Tensor):
        """x0, noise: (B, c, t, h, w); sigma: (B,); ids, mask, ids_2: (B, L) -> loss (), PARTS (1,)."""
        text = self.text_encoder(ids, mask)  # (B, L, D)
        pooled = self.text_encoder_2(ids_2)[0]  # (B, P); no mask, as in the pipeline
        x = self.objective.add_noise(x0, noise, sigma)
        velocity = self.transformer(
            x, 1000 * sigma, text.expand_dims(1), pooled.expand_dims(1), None, mask.expand_dims(1)
        )
        loss = self.objective.loss(velocity, x0, noise, sigma)
        return loss, loss_parts(velocity - (noise - x0), sigma > 0.7)


def latent_batches(recipe: LatentRecipe, latents: Latents, levels: Callable, tokenizers) -> Callable:
    """The function from a step's number to x0, noise, noise level, and each tokeniser's ids and mask.

    Args:
        levels: (rng, latents (B, c, t, h, w)) -> noise levels (B,), as the objective counts them.
    """
    data, seed = recipe.data, recipe.run.seed
    order = EpochOrder(seed, data.clips, data.batch)
    shown = cache(lambda index: draw(np.random.RandomState([index, 0])))  # what training clip `index` shows
    clean = cache(lambda text: template_for(TEMPLATE).apply(text)[0])  # as the pipeline treats a prompt

    def batch(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng((seed, step))
        words = np.random.RandomState(rng.integers(2**32))
        clips = order(step)
        x0 = latents.draw(clips, rng.standard_normal((data.batch, *latents.mean.shape[1:]), np.float32))
        noise = rng.standard_normal(x0.shape, np.float32)
        level = levels(rng, x0)
        dropped = rng.random(data.batch) < data.caption_dropout
        seen = [shown(int(index)) for index in clips]
        texts = [caption(c.things, c.background, words, c.places) for c in seen]
        texts = ["" if drop else clean(text) for text, drop in zip(texts, dropped)]
        return (x0, noise, level) + tuple(array for tokenizer in tokenizers for array in tokenizer(texts))

    return batch


def denoiser_batches(recipe: DenoiserRecipe, latents: Latents, objective: FlowMatching, tokenizers) -> Callable:
    """The function from a step's number to DenoiserLoss's arrays."""

    def sigmas(rng, x0):
        return objective.sigmas(objective.draw(rng, len(x0)), x0.shape[-2:])

    batch = latent_batches(recipe, latents, sigmas, tokenizers)
    return lambda step: batch(step)[:-1]  # CLIP gets no mask


def train_denoiser(recipe: DenoiserRecipe) -> None:
    """Encode the clips if need be, train, and complete the model folder `run.export`."""
    folder, lengths = Path(recipe.run.export), recipe.data.max_text_lengths
    tokenizers = (
        T5Tokenizer.from_folder(folder / "tokenizer", lengths[0]),
        CLIPTokenizer.from_folder(folder / "tokenizer_2", lengths[1]),
    )
    objective = FlowMatching(FlowMatchScheduler.from_upstream(recipe.scheduler))

    def batches():
        latents = prepare_latents(folder / "vae", Path(recipe.run.out) / LATENTS, recipe.data)
        return denoiser_batches(recipe, latents, objective, tokenizers)

    train_model(recipe, DenoiserLoss, objective, tokenizers, batches)


def train_model(recipe: LatentRecipe, kind: type[LatentLoss], objective, tokenizers, batches: Callable) -> None:
    """Train the Cells of a loss and complete the model folder `run.export`.

    Args:
        kind: the loss.
        batches: () -> the function from a step's number to the loss's arrays. Called late: it may encode for minutes,
            and what can be wrong with the recipe should show before that.
    """
    folder, out = Path(recipe.run.export), Path(recipe.run.out)
    vae = WFVAEConfig.from_upstream(read_json(folder / "vae" / "config.json"))
    configs = completed_configs(recipe, vae, tokenizers)
    ms.set_seed(recipe.run.seed)  # of the initial weights
    loss = kind(configs, objective).set_train()
    if recipe.run.init is not None:
        start_from(loss, configs, Path(recipe.run.init))
    index = model_index(recipe, kind.CELLS["transformer"].__name__, vae, configs)  # checked before hours of training
    out.mkdir(parents=True, exist_ok=True)
    step = train(recipe, loss, PARTS, batches())

    weights = averaged_weights(step)
    for name, cell in kind.CELLS.items():
        export_model(cell, configs[name], weights, folder / name, WEIGHTS[name], prefix=f"{name}.")
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", dict(recipe.scheduler))
    write_json(folder / "model_index.json", index)  # last: a folder that has it is a whole model
    print(f"{folder}: complete", flush=True)


def start_from(loss: LatentLoss, configs: dict[str, dict], folder: Path) -> None:
    """Copy a model folder's weights into the loss's Cells; their names carry a prefix, so not by `load` itself."""
    for name, cell in loss.CELLS.items():
        source = {p.name: p for p in load(cell.from_upstream(configs[name]), folder / name).get_parameters()}
        for parameter in getattr(loss, name).get_parameters():
            parameter.set_data(source[parameter.name.removeprefix(f"{name}.")])


def completed_configs(recipe: LatentRecipe, vae: WFVAEConfig, tokenizers) -> dict[str, dict]:
    """Upstream's config.json of each Cell: the recipe's keys, and the widths that follow from other parts.

    Of two tokenisers the second is CLIP's, and the model is of the v1.5 kind; a model of one is shown frames.
    """
    t5, *clip = tokenizers
    text = {"vocab_size": t5.processor.vocab_size()} | recipe.text_encoder
    widths = {"in_channels": vae.latent_dim, "out_channels": vae.latent_dim, "caption_channels": text.get("d_model")}
    configs = {"text_encoder": text}
    if clip:
        text_2 = {
            "vocab_size": clip[0].tokenizer.get_vocab_size(),
            "eos_token_id": clip[0].end_id,
            "max_position_embeddings": clip[0].max_length,
        } | recipe.text_encoder_2
        widths["pooled_projection_dim"] = text_2.get("projection_dim")
        configs["text_encoder_2"] = text_2
    else:
        widths["vae_scale_factor_t"] = vae.temporal_stride
    for key, value in widths.items():
        if recipe.transformer.get(key, value) != value:
            raise InputError(f"transformer.{key} = {recipe.transformer[key]}: the other parts need {value}")
    return {"transformer": widths | recipe.transformer} | configs


def model_index(recipe: LatentRecipe, transformer: str, vae: WFVAEConfig, configs: dict[str, dict]) -> dict:
    """model_index.json of the model that this recipe makes. transformer: its class."""
    data, sampling = recipe.data, recipe.sampling
    size = {"num_frames": data.frames, "height": data.size, "width": data.size}
    components = registry.spec(transformer).components
    index = {name: ["mindsora", cell] for name, cell in components.items()} | {
        "template": TEMPLATE,
        "vae_stride": [vae.temporal_stride, SPATIAL_STRIDE, SPATIAL_STRIDE],
        "patch_size": configs["transformer"].get("patch_size", 2),
        "max_frames": data.frames,
        "max_height": data.size,
        "max_width": data.size,
        **size,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "guidance_rescale": sampling.guidance_rescale,
        "fps": FPS,
        "max_text_lengths": list(data.max_text_lengths),
    }
    from_dict(ModelIndex, index)
    return index
