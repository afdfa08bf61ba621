"""LoRA files: read in the layouts of PEFT and of diffusers, written in that of diffusers, merged into weights.

Both layouts name two tensors for each adapted layer, `LAYER.lora_A.weight` (rank, in) and `LAYER.lora_B.weight`
(out, rank). Before the layer's upstream name PEFT has `base_model.model.` and diffusers `transformer.`. The scale of the
update is alpha / rank. PEFT writes alpha into `adapter_config.json`, diffusers into the metadata of the file, older tools
into a tensor `LAYER.alpha`; without any of them alpha is the rank.
"""

import difflib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindsora.ckpt_convert.checkpoint import Checkpoint, open_checkpoint
from mindsora.ckpt_convert.dtypes import FLOATING, NUMPY
from mindsora.ckpt_convert.entry import ArrayEntry, Entry
from mindsora.ckpt_convert.formats import safetensors_file
from mindsora.config import parse_json, read_json
from mindsora.errors import InputError, shown
from mindsora.files import replacing

FILE = "pytorch_lora_weights.safetensors"  # diffusers' name; a folder with this one file stands for it
METADATA = "lora_adapter_metadata"  # key of diffusers' metadata, which holds JSON
_PREFIXES = r"(?:base_model\.model\.)?(?:transformer\.)?"
_MATRIX = re.compile(
    rf"{_PREFIXES}(.+?)\.(?:(lora_A|lora_down|lora\.down)|lora_B|lora_up|lora\.up)(?:\.default)?\.weight"
)
_ALPHA = re.compile(rf"{_PREFIXES}(.+)\.alpha")
# Settings of PEFT under which the update is not (alpha / rank) B A.
_OTHER_ARITHMETIC = ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora")


@dataclass(frozen=True)
class Update:
    """What a LoRA adds to one weight (out, in): scale * up @ down, in float32.

    Attributes:
        down: A, (rank, in) float32.
        up: B, (out, rank) float32.
        scale: alpha / rank, times the scale of the user.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last` of the update."""
        return np.float32(self.scale) * (self.up[first:last] @ self.down)


class Merged(Entry):
    """A weight plus updates, summed in float32 and rounded once to `dtype`.

    Attributes:
        entry: the weight without them.
    """

    def __init__(self, entry: Entry, updates: Sequence[Update], dtype: str):
        super().__init__(entry.name, dtype, entry.shape)
        self.entry = entry
        self._updates = [update for update in updates if update.scale]  # at scale 0 the weight keeps its bits

    def check(self):
        self.entry.check()

    def read(self, start, stop):
        width = self.shape[1]
        first, last = start // width, -(-stop // width)
        part = slice(start - first * width, stop - first * width)
        value = self.entry.read(start, stop).astype(np.float32)
        for update in self._updates:
            value = value + update.rows(first, last).reshape(-1)[part]
        with np.errstate(over="ignore"):  # a user of half precision checks for infinite values
            return value.astype(NUMPY[self.dtype])


def read_lora(source: str | os.PathLike, scale: float = 1.0) -> dict[str, Update]:
    """Layer -> its update, from a file or a folder with one. Names are not compared with a model's: see `fitted`.

    Args:
        source: a LoRA of PEFT's or diffusers' layout, in any container of `open_checkpoint`.
        scale: of the user; 1 is the update as it was trained.

    Raises:
        InputError: a file that cannot be read, a key that is no part of a LoRA, a matrix without its partner, shapes that
            do not multiply, values that are not finite, or an adapter whose update is not (alpha / rank) B A.
    """
    with open_checkpoint(source) as checkpoint:
        where = str(checkpoint.path)
        matrices, alphas = _parts(checkpoint, where)
        settings = _settings(checkpoint, where)
        return {layer: _update(where, layer, pair, alphas, settings, scale) for layer, pair in matrices.items()}


def _parts(checkpoint: Checkpoint, where: str) -> tuple[dict[str, dict[str, Entry]], dict[str, Entry]]:
    """Layer -> its matrices "down" and "up"; layer -> its alpha."""
    matrices: dict[str, dict[str, Entry]] = {}
    alphas: dict[str, Entry] = {}
    for key, entry in checkpoint.items():
        if match := _MATRIX.fullmatch(key):
            pair, part = matrices.setdefault(match[1], {}), "down" if match[2] else "up"
        elif match := _ALPHA.fullmatch(key):
            pair, part = alphas, match[1]
        else:
            raise InputError(
                f"{where!r}: key {shown(key)} is no part of a LoRA; expected LAYER.lora_A.weight, LAYER.lora_B.weight "
                "and LAYER.alpha, with base_model.model. or transformer. before them"
            )
        if part in pair:
            raise InputError(f"{where!r}: key {shown(key)} names a tensor that the file holds under another key too")
        pair[part] = entry
    for layer, pair in matrices.items():
        if len(pair) < 2:
            lacking = {"down": "lora_A", "up": "lora_B"}[({"down", "up"} - pair.keys()).pop()]
            raise InputError(f"{where!r}: layer {shown(layer)} lacks {lacking}.weight")
    if strays := alphas.keys() - matrices.keys():
        raise InputError(f"{where!r}: {shown(min(strays))} has an alpha and no matrices")
    return matrices, alphas


def _settings(checkpoint: Checkpoint, where: str) -> dict:
    """PEFT's configuration of the adapter: from the metadata of the file, else from `adapter_config.json` beside it."""
    beside = checkpoint.files[0].with_name("adapter_config.json")
    if METADATA in checkpoint.metadata:
        try:
            content = parse_json(checkpoint.metadata[METADATA].encode())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where!r}: {METADATA} is not JSON: {shown(error, quote=False)}") from error
        if not isinstance(content, dict):
            raise InputError(f"{where!r}: {METADATA} must hold a JSON object")
        settings = {key.removeprefix("transformer."): value for key, value in content.items()}
    else:
        settings = read_json(beside) if beside.is_file() else {}
    for name in _OTHER_ARITHMETIC:
        if settings.get(name):
            raise InputError(
                f"{where!r}: {name} = {shown(settings[name], quote=False)} is not supported; only plain LoRA is"
            )
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or any(not re.fullmatch(r"[\w.]+", str(key)) for key in patterns):
        raise InputError(
            f"{where!r}: alpha_pattern must map names of layers to numbers; regular expressions are not read"
        )
    return settings


def _update(
    where: str, layer: str, pair: dict[str, Entry], alphas: dict[str, Entry], settings: dict, scale: float
) -> Update:
    down, up = _matrix(where, pair["down"]), _matrix(where, pair["up"])
    rank = down.shape[0]
    if up.shape[1] != rank or not rank:
        raise InputError(
            f"{where!r}: layer {shown(layer)}: lora_A {down.shape} and lora_B {up.shape} have no common rank"
        )
    alpha = _alpha(where, layer, alphas, settings, rank)
    return Update(down, up, scale * alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _matrix(where: str, entry: Entry) -> np.ndarray:
    """The values as float32. InputError: not a matrix of finite floating-point numbers."""
    if entry.dtype not in FLOATING or entry.dtype.startswith("float8") or len(entry.shape) != 2:
        raise InputError(
            f"{where!r}: tensor {shown(entry.name)} is {entry.dtype} of shape {entry.shape}; the LoRA of a linear layer "
            "has matrices of float32, float16 or bfloat16"
        )
    value = entry.numpy().astype(np.float32)
    if not np.isfinite(value).all():
        raise InputError(f"{where!r}: tensor {shown(entry.name)} holds infinite values or NaN")
    return value


def _alpha(where: str, layer: str, alphas: dict[str, Entry], settings: dict, rank: int) -> float:
    if layer in alphas:
        entry = alphas[layer]
        if entry.size != 1:
            raise InputError(f"{where!r}: tensor {shown(entry.name)} of shape {entry.shape} must be one number")
        alpha: object = float(entry.numpy().reshape(-1)[0])
    else:
        patterns = settings.get("alpha_pattern") or {}
        named = next((key for key in patterns if f".{layer}".endswith(f".{key}")), None)
        alpha = settings.get("lora_alpha", rank) if named is None else patterns[named]
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise InputError(f"{where!r}: alpha of layer {shown(layer)} is {shown(alpha)}; it must be a finite number")
    return float(alpha)


def fitted(
    updates: Mapping[str, Update], shapes: Mapping[str, tuple[int, ...]], where: str, model: str
) -> dict[str, Update]:
    """Upstream's name of a weight -> its update.

    Args:
        updates: from `read_lora`.
        shapes: upstream's name -> shape, of every weight of the model.
        where: the LoRA's path, for messages.
        model: the model's name, for messages.

    Raises:
        InputError: a layer that the model does not have, or matrices of other widths.
    """
    for layer, update in updates.items():
        shape = shapes.get(f"{layer}.weight")
        if shape is None:
            layers = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
            near = difflib.get_close_matches(layer, layers, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise InputError(f"LoRA {where!r} does not fit {model}, which has no layer {shown(layer)}{hint}")
        if (update.up.shape[0], update.down.shape[1]) != shape:
            raise InputError(
                f"LoRA {where!r} does not fit {model}: layer {shown(layer)} has weights of shape {shape}, "
                f"lora_B {update.up.shape} times lora_A {update.down.shape} has another"
            )
    return {f"{layer}.weight": update for layer, update in updates.items()}


def write_lora(path: Path, matrices: Mapping[str, tuple[np.ndarray, np.ndarray]], rank: int, alpha: float) -> None:
    """Write a LoRA in diffusers' layout, completely or not at all.

    Args:
        matrices: upstream's name of a layer -> A (rank, in) and B (out, rank).

    Raises:
        OSError: the file cannot be written.
    """
    entries: list[Entry] = []
    for layer, (down, up) in matrices.items():
        entries.append(ArrayEntry(f"transformer.{layer}.lora_A.weight", down))
        entries.append(ArrayEntry(f"transformer.{layer}.lora_B.weight", up))
    settings = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(matrices), "peft_type": "LORA"}
    packed = json.dumps({f"transformer.{key}": value for key, value in settings.items()}, sort_keys=True)
    with replacing(path) as out:
        for _ in safetensors_file.write(out, entries, {"format": "pt", METADATA: packed}):
            pass
