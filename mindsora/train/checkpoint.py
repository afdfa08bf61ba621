"""The state of a run in one file: whole or not at all, written to a temporary name and renamed."""

import json
import os
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mindsora.errors import InputError
from mindsora.files import whole_file


def save_state(path: str | os.PathLike, step: nn.Cell, manifest: dict) -> None:
    """Write every parameter of the training step: weights, moments, averages, counters and clipping state.

    Args:
        manifest: what else a resumed run needs (steps done, data position, recipe fingerprint); JSON values.
    """
    path = Path(path)
    state = {p.name: p.asnumpy() for p in step.get_parameters()}
    with whole_file(path) as temporary:
        save_file(state, temporary, metadata={"manifest": json.dumps(manifest)})


def load_state(path: str | os.PathLike, step: nn.Cell, recipe: str) -> dict:
    """Put a saved state back, bit for bit, and return its manifest.

    Args:
        recipe: fingerprint the manifest must carry.

    Raises:
        InputError: the file is not whole, was written by another recipe, or does not hold exactly this step's
            parameters; nothing is changed then.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="np") as file:
            manifest = json.loads((file.metadata() or {}).get("manifest", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {str(path)!r} cannot be read ({error}); remove it to start afresh") from error
    if manifest.get("recipe") != recipe:
        raise InputError(
            f"checkpoint {str(path)!r} was written by another recipe (model, data, loss or seed differ): "
            "train into another folder, or remove it to start afresh"
        )
    parameters = {p.name: p for p in step.get_parameters()}
    missing, unexpected = sorted(parameters.keys() - state.keys()), sorted(state.keys() - parameters.keys())
    wrong = [
        name for name in sorted(parameters.keys() & state.keys()) if state[name].shape != tuple(parameters[name].shape)
    ]
    if missing or unexpected or wrong:
        raise InputError(
            f"checkpoint {str(path)!r} does not fit: missing {missing}; unexpected {unexpected}; wrong shape {wrong}"
        )
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(state[name]))
    return manifest


def averaged_weights(step: nn.Cell) -> dict[str, np.ndarray]:
    """The moving average of every weight, under the name the weight has in the loss Cell."""
    return {w.name: average.asnumpy() for w, average in zip(step.adamw.weights, step.ema.averages)}
