"""The model folder that a training completes: upstream's config.json and safetensors, and model_index.json."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from mindsora.ckpt_convert import load, save
from mindsora.config import from_dict
from mindsora.data.source import Source
from mindsora.errors import InputError
from mindsora.files import write_json
from mindsora.models import registry
from mindsora.models.wfvae import WFVAEConfig
from mindsora.shapes import SPATIAL_STRIDE
from mindsora.train.recipe import DenoiserData, SamplingConfig
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
