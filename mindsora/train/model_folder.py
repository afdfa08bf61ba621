"""The model folder that a training completes: upstream's config.json and safetensors, and model_index.json."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from mindsora.ckpt_convert import load, save
from mindsora.config import from_dict
from mindsora.data.settings import VideoData
from mindsora.data.source import Source
from mindsora.errors import InputError
from mindsora.files import write_json
from mindsora.models import registry
from mindsora.models.wfvae import WFVAEConfig
from mindsora.shapes import SPATIAL_STRIDE
from mindsora.train.recipe import DenoiserData, SamplingConfig, StageRecipe
from mindsora.zoo import WEIGHTS, ModelIndex


def export_model(
    model: type, config: dict, weights: dict[str, np.ndarray], folder: Path, filename: str, prefix: str = ""
) -> nn.Cell:
    """Write `config`, and `weights` as float16. Returns the Cell with these weights in float32.

    Args:
        model: class of the Cell; it is built from `config` (upstream's keys).
        weights: name -> array; the names are the Cell's parameter names with `prefix` in front.
    """
    cell = model.from_upstream(config).set_train(False)
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(weights[prefix + parameter.name]))
    folder.mkdir(parents=True, exist_ok=True)
    save(cell, folder / filename, np.float16)
    write_json(folder / "config.json", config)
    return cell


def exporter(folder: Path, loss: nn.Cell, configs: dict[str, dict], scheduler: dict, index: dict) -> Callable:
    """Return the function that completes the model in `folder`: averaged weights, configurations and index.

    Args:
        loss: holds the Cells to export, under the names in `configs`.
        scheduler, index: contents of scheduler_config.json and model_index.json.
    """

    def export(weights: dict[str, np.ndarray]) -> None:
        for name, config in configs.items():
            export_model(type(getattr(loss, name)), config, weights, folder / name, WEIGHTS[name], prefix=f"{name}.")
        (folder / "scheduler").mkdir(exist_ok=True)
        write_json(folder / "scheduler" / "scheduler_config.json", dict(scheduler))
        write_json(folder / "model_index.json", index)  # last: the index marks a whole model
        print(f"{folder}: complete", flush=True)

    return export


def start_from(loss: nn.Cell, configs: dict[str, dict], folder: Path) -> None:
    """Copy a model folder's weights into the loss's Cells, whose names have a prefix that `load` does not know."""
    for name, config in configs.items():
        cell = getattr(loss, name)
        source = {p.name: p for p in load(type(cell).from_upstream(config), folder / name).get_parameters()}
        for parameter in cell.get_parameters():
            parameter.set_data(source[parameter.name.removeprefix(f"{name}.")])


def with_widths(transformer: dict, widths: dict) -> dict:
    """Add the widths that follow from other parts to a denoiser's configuration. InputError: it has another width."""
    for key, value in widths.items():
        if transformer.get(key, value) != value:
            raise InputError(f"transformer.{key} = {transformer[key]}: the other parts need {value}")
    return widths | transformer


def model_index(
    transformer: nn.Cell, patch_size: int, vae: WFVAEConfig, clips: Source, data: DenoiserData, sampling: SamplingConfig
) -> dict:
    """model_index.json of a model of this denoiser, trained on these clips.

    Raises:
        InputError: the pipeline could not make clips of the recipe's shape.
    """
    size = {"num_frames": data.frames, "height": data.size, "width": data.size}
    components = registry.spec_of(transformer).components
    index = {name: ["mindsora", cell] for name, cell in components.items()} | {
        "template": clips.template,
        "vae_stride": [vae.temporal_stride, SPATIAL_STRIDE, SPATIAL_STRIDE],
        "patch_size": patch_size,
        "max_frames": data.frames,
        "max_height": data.size,
        "max_width": data.size,
        **size,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "guidance_rescale": sampling.guidance_rescale,
        "fps": clips.fps,
        "max_text_lengths": list(data.max_text_lengths),
    }
    from_dict(ModelIndex, index)
    return index


def transformer_config(recipe: StageRecipe, encoders: dict) -> dict:
    """Upstream's config.json of the denoiser: the recipe's keys and the widths that follow from the encoders.

    encoders: component -> its config.
    """
    vae = encoders["vae"]
    if recipe.data.frame_stride != vae.temporal_stride:
        raise InputError(f"data.frame_stride = {recipe.data.frame_stride}: the autoencoder has {vae.temporal_stride}")
    widths = {
        "in_channels": vae.latent_dim,
        "out_channels": vae.latent_dim,
        "caption_channels": encoders["text_encoder"].d_model,
    }
    if clip := encoders.get("text_encoder_2"):
        widths["pooled_projection_dim"] = clip.projection_dim
    if recipe.masks:
        widths["vae_scale_factor_t"] = vae.temporal_stride
    return with_widths(recipe.transformer, widths)


def stage_exporter(recipe: StageRecipe, source: Path, config: dict) -> Callable:
    """Return the function that makes the model folder `run.export`: the parts of the encoders' folder and the denoiser.

    Args:
        source: folder of the encoders.
        config: upstream's config.json of the denoiser.

    Raises:
        InputError: the pipeline could not make clips of the recipe's shape.
    """
    folder, cell = Path(recipe.run.export), registry.spec(recipe.model).cell
    encoders = ModelIndex.read(source)
    index = stage_index(recipe, encoders, config.get("patch_size", 2))

    def export(weights: dict[str, np.ndarray]) -> None:
        for name in encoders.components.keys() - {"transformer"}:
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        export_model(cell, config, weights, folder / "transformer", WEIGHTS["transformer"])
        write_json(folder / "model_index.json", index)  # last: the index marks a whole model
        print(f"{folder}: complete", flush=True)

    return export


def stage_index(recipe: StageRecipe, encoders: ModelIndex, patch_size: int) -> dict:
    """model_index.json of a stage's model: the encoders' parts and sampling settings, the recipe's denoiser and sizes.

    A stage with buckets samples squares unless told otherwise.
    """
    data = recipe.data
    height, width = largest = data.size or (_legal(math.sqrt(data.max_pixels), data),) * 2
    if data.size is None:
        low, high = data.aspect
        largest = _legal(math.sqrt(data.max_pixels * high), data), _legal(math.sqrt(data.max_pixels / low), data)
    index = {name: ["mindsora", kind] for name, kind in (encoders.components | {"transformer": recipe.model}).items()}
    index |= {
        "template": encoders.template,
        "vae_stride": list(encoders.vae_stride),
        "patch_size": patch_size,
        "max_frames": data.frames,
        "max_height": largest[0],
        "max_width": largest[1],
        "num_frames": data.frames,
        "height": height,
        "width": width,
        "num_inference_steps": encoders.num_inference_steps,
        "guidance_scale": encoders.guidance_scale,
        "guidance_rescale": encoders.guidance_rescale,
        "fps": data.fps,
        "max_text_lengths": list(encoders.max_text_lengths),
    }
    if data.size is None:
        index["max_pixels"] = data.max_pixels
    from_dict(ModelIndex, index)
    return index


def _legal(side: float, data: VideoData) -> int:
    return int(side) // data.pixel_stride * data.pixel_stride
