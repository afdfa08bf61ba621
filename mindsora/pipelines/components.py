"""Read the parts of a model folder: configurations, dtypes, Cells and their weights."""

from pathlib import Path

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindsora import ckpt_convert
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.models import SUV, CLIPTextModel, T5Encoder, WFVAE
from mindsora.nn.precision import set_precision
from mindsora.schedulers import FlowMatchScheduler
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer
from mindsora.zoo import ModelIndex

CELLS = {"transformer": SUV, "vae": WFVAE, "text_encoder": T5Encoder, "text_encoder_2": CLIPTextModel}
DTYPES = {
    "float32": ms.float32, "fp32": ms.float32,
    "float16": ms.float16, "fp16": ms.float16,
    "bfloat16": ms.bfloat16, "bf16": ms.bfloat16,
}


def component_dtypes(dtype: str | dict[str, str] | None, device: str) -> dict[str, object]:
    """The dtype of every Cell.

    Args:
        dtype: one name for all, a name per component, or None.
        device: "CPU" or "Ascend".

    Raises:
        InputError: an unknown name or component, or bfloat16 on CPU.
    """
    # The VAE stays float32 by default, as upstream trains it: half precision shows in flat areas.
    names = dict.fromkeys(CELLS, "float32" if device == "CPU" else "bfloat16") | {"vae": "float32"}
    if isinstance(dtype, str):
        names = dict.fromkeys(CELLS, dtype)
    elif dtype is not None:
        if unknown := dtype.keys() - CELLS.keys():
            raise InputError(f"dtype for unknown component {sorted(unknown)[0]!r}; components: {', '.join(CELLS)}")
        names |= dtype
    for component, name in names.items():
        if name not in DTYPES:
            raise InputError(f"dtype {name!r} for {component}: must be float32, float16 or bfloat16")
        if DTYPES[name] == ms.bfloat16 and device == "CPU":
            raise InputError(f"dtype bfloat16 for {component}: CPU has no bfloat16 matrix product; use float32")
    return {component: DTYPES[name] for component, name in names.items()}


def load_components(folder: Path, index: ModelIndex, dtype: str | dict[str, str] | None) -> dict[str, object]:
    """All components of a model folder, checked against each other before the first weight is read."""
    dtypes = component_dtypes(dtype, ms.get_current_device().device_target)
    cells = {name: build(folder / name, cell_class) for name, cell_class in CELLS.items()}
    _check_fit(folder, index, cells)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    companions = {
        "tokenizer": T5Tokenizer.from_folder(folder / "tokenizer", index.max_text_lengths[0]),
        "tokenizer_2": CLIPTokenizer.from_folder(folder / "tokenizer_2", index.max_text_lengths[1]),
        "scheduler": _named(scheduler, FlowMatchScheduler.from_upstream, read_json(scheduler)),
    }
    for name, cell in cells.items():
        ckpt_convert.load(set_precision(cell, dtypes[name]), folder / name).set_train(False)
    return cells | companions


def build(folder: Path, cell_class: type) -> nn.Cell:
    """The Cell a component folder's config.json describes, float32, its parameters still without values."""
    path = folder / "config.json"
    arguments = [read_json(path)]
    if cell_class is CLIPTextModel:  # published configurations leave projection_dim out; the weights know it
        arguments.append(ckpt_convert.shapes(folder))
    with no_init_parameters():  # neither memory nor random numbers: `load` brings the values
        return _named(path, cell_class.from_upstream, *arguments)


def _named(path: Path, function, *arguments):
    """Call, and put the file's name in front of an InputError."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error


def _check_fit(folder: Path, index: ModelIndex, cells: dict[str, nn.Cell]) -> None:
    transformer, vae, t5, clip = (cells[name].config for name in CELLS)
    for what, left, right in (
        ("latent channels of transformer and vae", transformer.in_channels, vae.latent_dim),
        ("text width of transformer and text_encoder", transformer.caption_channels, t5.d_model),
        ("pooled width of transformer and text_encoder_2", transformer.pooled_projection_dim, clip.projection_dim),
        ("patch_size of model_index.json and transformer", index.patch_size, transformer.patch_size),
        ("temporal stride of model_index.json and vae", index.vae_stride[0], vae.temporal_stride),
    ):
        if left != right:
            raise InputError(f"{str(folder)!r}: {what} differ: {left} and {right}")
    if index.max_text_lengths[1] > clip.max_position_embeddings:
        raise InputError(
            f"{str(folder)!r}: max_text_lengths {list(index.max_text_lengths)}: text_encoder_2 has "
            f"{clip.max_position_embeddings} positions"
        )
