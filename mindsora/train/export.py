"""A trained model as the pipeline reads it: upstream's config.json and safetensors under upstream's names."""

import json
from pathlib import Path

import numpy as np
from mindspore import Tensor

from mindsora.ckpt_convert import save
from mindsora.files import whole_file


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
    """Write a JSON object."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
