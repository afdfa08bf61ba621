"""A trained model as the pipeline reads it: upstream's config.json and safetensors under upstream's names."""

import json
import os
from pathlib import Path

import numpy as np
from mindspore import Tensor

from mindsora.ckpt_convert import save


def export_model(
    model: type, config: dict, weights: dict[str, np.ndarray], folder: Path, filename: str, prefix: str = ""
):
    """Write `weights` as float16 and `config`. Returns the Cell, which holds them in float32.

    Args:
        model: class of the Cell; it is built from `config` (upstream's keys).
        weights: name to array; the names are the Cell's own with `prefix` in front.
    """
    cell = model.from_upstream(config).set_train(False)
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(weights[prefix + parameter.name]))
    folder.mkdir(parents=True, exist_ok=True)
    save(cell, folder / filename, np.float16)
    write_json(folder / "config.json", config)
    return cell


def write_json(path: Path, content: dict) -> None:
    """Write to a temporary name, then rename."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
