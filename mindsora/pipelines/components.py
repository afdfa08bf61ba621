"""Read the parts of a model folder: configurations, dtypes, Cells and their weights."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindsora import ckpt_convert, sampling
from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.models.spec import CELLS, ModelSpec
from mindsora.nn.precision import set_precision
from mindsora.parallel.layout import Mesh, single
from mindsora.parallel.shards import Shards
from mindsora.pipelines.offload import stream
from mindsora.shipped import check_files
from mindsora.text.tokenizers import CLIPTokenizer, T5FastTokenizer, T5Tokenizer
from mindsora.zoo import ModelIndex

DTYPES = {
    "float32": ms.float32,
    "fp32": ms.float32,
    "float16": ms.float16,
    "fp16": ms.float16,
    "bfloat16": ms.bfloat16,
    "bf16": ms.bfloat16,
}


def cell_specs(index: ModelIndex) -> dict[str, ModelSpec]:
    """Component -> what the registry says of it, for the Cells of a model."""
    return {name: registry.spec(kind) for name, kind in index.components.items() if name in CELLS}


def component_dtypes(
    dtype: object | dict[str, object] | None, device: str, components: tuple[str, ...] = CELLS
) -> dict[str, object]:
    """The dtype of every Cell.

    Args:
        dtype: one for all, one per component, or None. A name such as "bfloat16" or "bf16", or MindSpore's own.
        device: "CPU" or "Ascend".
        components: the Cells that the model has.

    Raises:
        InputError: an unknown name or component, or bfloat16 on CPU.
    """
    # The VAE stays float32 by default, as upstream trains it: half precision shows in flat areas.
    names = dict.fromkeys(components, "float32" if device == "CPU" else "bfloat16") | {"vae": "float32"}
    given = dtype if isinstance(dtype, dict) else {} if dtype is None else dict.fromkeys(components, dtype)
    if unknown := given.keys() - set(components):
        raise InputError(f"dtype for unknown component {shown(min(unknown))}; components: {', '.join(components)}")
    names |= {component: str(name).lower() for component, name in given.items()}  # str(ms.float16) is "Float16"
    for component, name in names.items():
        if name not in DTYPES:
            raise InputError(f"dtype {shown(name)} for {component}: must be float32, float16 or bfloat16")
        if DTYPES[name] == ms.bfloat16 and device == "CPU":
            raise InputError(f"dtype bfloat16 for {component}: CPU has no bfloat16 matrix product; use float32")
    return {component: DTYPES[name] for component, name in names.items()}


def load_components(
    folder: Path,
    index: ModelIndex,
    dtype: object | dict[str, object] | None,
    offload: bool = False,
    jit: str = "O0",
    given: Mapping[str, object] = MappingProxyType({}),
    mesh: Mesh | None = None,
) -> dict[str, object]:
    """All components of a model folder, checked against each other before the first weight is read.

    Args:
        offload: leave the layers of all but the VAE in their files; see `mindsora.pipelines.offload`, and there for jit.
        given: components to use as they are, in place of the folder's; None leaves a text encoder or tokeniser out.
        mesh: the groups of ranks that share the denoiser and the text encoders; each reads its own slices.

    Raises:
        InputError: as VideoPipeline.from_pretrained.
    """
    mesh = mesh or single()
    check_files(folder)
    if offload and mesh.layout.size > 1:
        raise InputError(f"offload with parallel {mesh.layout}: offload is for one process; leave one of them out")
    for name, part in given.items():
        check_component(index, name, part)
    specs = cell_specs(index)
    dtypes = component_dtypes(dtype, ms.get_current_device().device_target, tuple(specs))
    read = {name: build(folder / name, spec, mesh) for name, spec in specs.items() if name not in given}
    cells = read | {name: given[name] for name in specs if given.get(name) is not None}
    _check_fit(folder, index, cells)
    if "transformer" in read:
        _check_weights(folder / "transformer", specs["transformer"])
    companions = {name: _companion(folder, index, name) for name in index.components.keys() - specs - given.keys()}
    companions |= {name: part for name, part in given.items() if name not in specs and part is not None}
    _check_vocabularies(folder, cells, companions)
    for name, cell in read.items():
        set_precision(cell, dtypes[name]).set_train(False)
        if offload and specs[name].streamed_layers:
            stream(cell, folder / name, jit)
        else:
            ckpt_convert.load(cell, folder / name, tp=mesh.tp)
    if "vae" in read and mesh.clip.size > 1 and not specs["vae"].decodes_together:
        cells["vae"].share_chunks(mesh.clip)
    return cells | companions


def _companion(folder: Path, index: ModelIndex, name: str) -> object:
    """A tokeniser or the scheduler of a model folder."""
    if name == "scheduler":
        path = folder / name / "scheduler_config.json"
        return _named(path, getattr(sampling, index.scheduler[1]).from_upstream, read_json(path))
    kind, length = (T5Tokenizer, 0) if name == "tokenizer" else (CLIPTokenizer, 1)
    return kind.from_folder(folder / name, index.max_text_lengths[length])


def check_component(index: ModelIndex, name: str, part: object) -> None:
    """Raise InputError for a component that a pipeline of this model cannot have in this place."""
    wanted = index.components.get(name)
    if part is None:
        if wanted and name in ("transformer", "vae", "scheduler"):
            raise InputError(f"{name} = None: a pipeline needs one; the text encoders alone can be left out")
        return
    if wanted is None:
        raise InputError(f"{name}: a model with {index.transformer[1]} has none; leave it out")
    if name in CELLS:
        kinds: tuple[type, ...] = (registry.spec(wanted).cell,)
    elif name == "scheduler":
        kinds = (getattr(sampling, wanted),)
    else:
        kinds = (CLIPTokenizer,) if name == "tokenizer_2" else (T5Tokenizer, T5FastTokenizer)
    if not isinstance(part, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{name} is {shown(f'{type(part).__module__}.{type(part).__name__}', quote=False)}, but the model takes "
            f"mindsora's {names}"
        )


def build(folder: Path, spec: ModelSpec, mesh: Mesh | None = None) -> nn.Cell:
    """The Cell a component folder's config.json describes, float32, its parameters still without values.

    Args:
        mesh: groups of ranks that share it, or one process.
    """
    path = folder / "config.json"
    config = read_json(path)
    named = registry.named_upstream(config.get("_class_name")) or spec
    if named != spec:
        raise InputError(f"{shown(path)} is the configuration of {named.name}, {_advice(named, spec)}")
    arguments: list = [config]
    if spec.shapes_decide:
        arguments.append(ckpt_convert.shapes(folder))
    if mesh is not None and mesh.cp.size * mesh.tp.size > 1:
        if spec.is_sharded:
            arguments.append(Shards(mesh.cp, mesh.tp))
        elif spec.component == "transformer":
            raise InputError(f"parallel {mesh.layout}: ranks cannot share {spec.name}; use dp or cfg")
    with no_init_parameters():  # neither memory nor random numbers: `load` brings the values
        return _named(path, spec.cell.from_upstream, *arguments)


def _named(path: Path, function, *arguments):
    """Call, and put the file's name in front of an InputError."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{shown(path)}: {error}") from error


def _check_fit(folder: Path, index: ModelIndex, cells: dict[str, nn.Cell]) -> None:
    config = {name: cell.config for name, cell in cells.items()}
    transformer, vae = config["transformer"], config["vae"]
    pairs = [
        ("latent channels of transformer and vae", transformer.in_channels, vae.latent_dim),
        ("patch_size of model_index.json and transformer", index.patch_size, transformer.patch_size),
        ("temporal stride of model_index.json and vae", index.vae_stride[0], vae.temporal_stride),
    ]
    if t5 := config.get("text_encoder"):
        pairs.append(("text width of transformer and text_encoder", transformer.caption_channels, t5.d_model))
    if index.takes_frames:
        pairs.append(
            (
                "vae_scale_factor_t of transformer and temporal stride of vae",
                transformer.vae_scale_factor_t,
                vae.temporal_stride,
            )
        )
    if clip := config.get("text_encoder_2"):
        pairs.append(
            ("pooled width of transformer and text_encoder_2", transformer.pooled_projection_dim, clip.projection_dim)
        )
    for what, left, right in pairs:
        if left != right:
            raise InputError(f"{shown(folder)}: {what} differ: {left} and {right}")
    if clip and index.max_text_lengths[1] > clip.max_position_embeddings:
        raise InputError(
            f"{shown(folder)}: max_text_lengths {list(index.max_text_lengths)}: text_encoder_2 has "
            f"{clip.max_position_embeddings} positions"
        )


def _check_vocabularies(folder: Path, cells: dict[str, nn.Cell], companions: dict[str, Any]) -> None:
    """InputError: a tokeniser gives ids that its encoder's embedding has no row for, and would read out of bounds."""
    for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if tokenizer in companions and encoder in cells:
            ids, rows = companions[tokenizer].vocab_size, cells[encoder].config.vocab_size
            if ids > rows:
                raise InputError(
                    f"{shown(folder)}: {tokenizer} has {ids} ids, {encoder} embeds {rows}: they belong to different models"
                )


def _check_weights(folder: Path, wanted: ModelSpec) -> None:
    """InputError: the denoiser's weights are those of another one, such as of the other task."""
    found = registry.recognised(ckpt_convert.shapes(folder)) or wanted
    if found != wanted:
        raise InputError(f"{shown(folder)} holds weights of {found.name}, {_advice(found, wanted)}")


def _advice(found: ModelSpec, wanted: ModelSpec) -> str:
    advice = f"but model_index.json says {wanted.name}: put the right checkpoint there"
    if found.component == wanted.component == "transformer":
        advice += f", or say ['mindsora', {found.name!r}] in model_index.json"
    return advice
