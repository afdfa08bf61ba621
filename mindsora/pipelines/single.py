"""One Cell by name: a component of a model folder (`AutoModel`), or a model of the table (`create_model`)."""

import os
from pathlib import Path

import mindspore as ms
from mindspore import nn

from mindsora import ckpt_convert, zoo
from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.models.spec import CELLS, ModelSpec
from mindsora.nn.precision import set_precision
from mindsora.pipelines.components import build, component_dtypes
from mindsora.pipelines.foreign import one_dtype


class AutoModel:
    """Loads one component, as diffusers' class of this name does. It has no instances."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | os.PathLike,
        subfolder: str | None = None,
        *,
        dtype: object = None,
        mindspore_dtype: object = None,
        model: type | None = None,
    ) -> nn.Cell:
        """A component with its weights, in eval mode.

        Args:
            name_or_dir: a model (see `mindsora.zoo.find`), or the folder of the component itself.
            subfolder: the component of the model: transformer, vae, text_encoder or text_encoder_2.
            dtype, mindspore_dtype: as of the pipelines' `from_pretrained`.
            model: class that it must be; it also says which component of a model is meant.

        Raises:
            InputError: no such folder or component, another class than `model`, or a file that is missing or damaged.
        """
        folder, spec = _located(name_or_dir, subfolder, model)
        if model is not None and not issubclass(spec.cell, model):
            raise InputError(f"{shown(folder)} holds {spec.name}, not {model.__name__}: use {spec.name} or AutoModel")
        device = ms.get_current_device().device_target
        chosen = component_dtypes(one_dtype(dtype, mindspore_dtype), device, (spec.component,))[spec.component]
        return ckpt_convert.load(set_precision(build(folder, spec), chosen).set_train(False), folder)


def _located(name_or_dir: str | os.PathLike, subfolder: str | None, model: type | None) -> tuple[Path, ModelSpec]:
    """The folder of a component and what it is."""
    if os.path.isfile(os.path.join(name_or_dir, "config.json")) and subfolder is None:
        return Path(name_or_dir), _recognised(Path(name_or_dir))
    folder = zoo.find(name_or_dir)
    components = zoo.ModelIndex.read(folder).components
    cells = [name for name in components if name in CELLS]
    part = subfolder or (registry.spec(model.__name__).component if model else None)
    if part not in cells:
        raise InputError(f"subfolder = {shown(part)} of {shown(name_or_dir)}: must be one of {', '.join(cells)}")
    return folder / part, registry.spec(components[part])


def _recognised(folder: Path) -> ModelSpec:
    """What a component's folder holds, by its config.json or by the names of its tensors."""
    spec = registry.named_upstream(read_json(folder / "config.json").get("_class_name"))
    spec = spec or registry.recognised(ckpt_convert.shapes(folder))
    if spec is None:
        raise InputError(f"{shown(folder)} holds no model that is known here: {', '.join(registry.names())}")
    return spec


def create_model(
    model_name: str,
    pretrained: bool = False,
    checkpoint_path: str | os.PathLike = "",
    *,
    component: str | None = None,
    dtype: object = None,
    **config,
) -> nn.Cell:
    """A Cell of a model by name, in training mode, as mindcv has it.

        create_model("v1.3", num_layers=2)                     # the denoiser, two blocks deep, with random weights
        create_model("nano", pretrained=True, component="vae")

    Args:
        model_name: one of `list_models`.
        pretrained: with the weights of the model; they must be here.
        checkpoint_path: with the weights of this checkpoint (see `mindsora.ckpt_convert`).
        component: transformer, vae, text_encoder or text_encoder_2; None: the denoiser, or of an autoencoder alone `vae`.
        dtype: of the parameters; None: float32 on CPU; on Ascend bfloat16, and float32 for `vae`.
        config: keys of the component's config.json to change.

    Raises:
        InputError: no such model, component or key, or weights that are missing or do not fit.
    """
    if pretrained and checkpoint_path:
        raise InputError("pretrained and checkpoint_path are both given: give one")
    folder, component = zoo.component(model_name, component, pretrained)
    content = read_json(folder / "config.json") | config
    spec = registry.spec(zoo.kind(model_name, component))
    chosen = component_dtypes(dtype, ms.get_current_device().device_target, (component,))[component]
    cell = set_precision(spec.cell.from_upstream(content), chosen)
    source = checkpoint_path or (folder if pretrained else None)
    return cell if source is None else ckpt_convert.load(cell, source)
