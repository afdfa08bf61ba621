"""Give a denoiser trainable low-rank updates, and collect them for a LoRA file."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import nn

from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.nn.compile_once import compile_once
from mindsora.nn.layers import Linear
from mindsora.nn.lora import LoRALinear

# Upstream's names of the attention projections; PEFT's rule: a layer is adapted if its name ends with one of them.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def add_lora(model: nn.Cell, rank: int, alpha: float, targets: Sequence[str] | None = None) -> dict[str, LoRALinear]:
    """Freeze a denoiser and put LoRALinear in the place of linear layers of its blocks.

    Args:
        model: a denoiser with `transformer_blocks`, whose weights are loaded. It computes the same as before.
        rank: of every update.
        alpha: an update has the scale alpha / rank.
        targets: ends of upstream's names of layers; None for those of TARGETS that the model has.

    Returns:
        Upstream's name of each adapted layer -> its LoRALinear.

    Raises:
        InputError: a target that no layer has, or a rank that is no smaller than a layer is wide. The model is as before.
    """
    layers = _linear_layers(model)
    names = {name for name in layers if _ends(name, TARGETS if targets is None else targets)}
    for target in targets or ():
        if not any(_ends(name, (target,)) for name in layers):
            known = ", ".join(sorted({_short(name) for name in layers}))
            raise InputError(
                f"LoRA target {shown(target)}: {type(model).__name__} has no such layer; choose from {known}"
            )
    narrowest = min(min(layers[name][2].weight.shape) for name in names)
    if not 1 <= rank < narrowest:
        raise InputError(
            f"LoRA rank {rank}: must be from 1 to {narrowest - 1}; the narrowest layer is {narrowest} wide"
        )
    for parameter in model.get_parameters():
        parameter.requires_grad = False
    adapted = {}
    for name in sorted(names):
        parent, attribute, layer = layers[name]
        adapted[name] = LoRALinear(layer, rank, alpha)
        own = {parameter: parameter.name for parameter in adapted[name].get_parameters()}
        setattr(parent, attribute, adapted[name])
        for parameter, given in own.items():  # MindSpore has put `attribute` before the names
            parameter.name = given
    # Blocks share a graph if they are equal, so their descriptions must name the new layers.
    compile_once(block for _, block in model.cells_and_names() if hasattr(block, "cell_init_args"))
    return adapted


def matrices(
    adapted: Mapping[str, LoRALinear], values: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Upstream's name of a layer -> A (rank, in) and B (out, rank).

    Args:
        adapted: from `add_lora`.
        values: name of a parameter -> its value, such as the moving averages of a training.
    """
    return {name: (values[layer.lora_A.name], values[layer.lora_B.name]) for name, layer in adapted.items()}


def _linear_layers(model: nn.Cell) -> dict[str, tuple[nn.Cell, str, Linear]]:
    """Upstream's name of every linear layer of the blocks -> (its parent, the parent's attribute, the layer)."""
    table = registry.spec_of(model).names
    return {
        table.upstream_name(layer.weight.name).removesuffix(".weight"): (parent, attribute, layer)
        for _, parent in model.transformer_blocks.cells_and_names()
        for attribute, layer in parent.name_cells().items()
        if type(layer) is Linear  # a subclass, such as the modulation, computes something else
    }


def _ends(name: str, targets: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _short(name: str) -> str:
    """A layer's name within its block: "attn1.to_q" for "transformer_blocks.0.attn1.to_q"."""
    return re.sub(r"^transformer_blocks\.[\d.]+", "", name)
