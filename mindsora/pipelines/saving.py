"""A pipeline to a model folder."""

import os
from pathlib import Path

from mindspore import nn

from mindsora import ckpt_convert
from mindsora.errors import InputError, shown
from mindsora.files import replacing_folder, write_json
from mindsora.models import registry
from mindsora.zoo import WEIGHTS


def save(pipe, folder: str | os.PathLike) -> None:
    """See VideoPipeline.save_pretrained."""
    if pipe.mesh.layout.size > 1:
        raise InputError(f"parallel {pipe.mesh.layout}: save_pretrained is for one process: copy the model's folder")
    if pipe.offload:
        raise InputError("a pipeline with offload has no weights in memory: copy the folder that it was loaded from")
    if missing := sorted(pipe.index.components.keys() - pipe.components.keys()):
        raise InputError(f"this pipeline has no {missing[0]}, which a model folder needs: load it whole")
    if os.path.exists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise InputError(f"{shown(folder)} is there already: name a new folder")
    try:
        with replacing_folder(folder) as target:
            _write(pipe, target)
    except OSError as error:
        raise InputError(f"cannot write {shown(folder)}: {error.strerror or error}") from error


def _write(pipe, target: Path) -> None:
    for name, part in pipe.components.items():
        (target / name).mkdir()
        if isinstance(part, nn.Cell):
            write_json(target / name / "config.json", config_of(part))
            ckpt_convert.save(part, target / name / WEIGHTS[name])
        elif name == "scheduler":
            write_json(target / name / "scheduler_config.json", part.config)
        else:
            part.save(target / name)
    write_json(target / "model_index.json", pipe.index.content())  # last: the index marks a whole model


def config_of(cell: nn.Cell) -> dict:
    """The content of a Cell's config.json, upstream's class included."""
    upstream = registry.spec_of(cell).upstream
    return ({"_class_name": upstream[0]} if upstream else {}) | cell.config.to_upstream()
