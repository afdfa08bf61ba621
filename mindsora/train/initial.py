"""The weights that a stage starts from: those of the stage before, and an explicit list of parameters that are new."""

from collections.abc import Sequence
from pathlib import Path

from mindspore import nn

from mindsora.ckpt_convert import load
from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.zoo import ModelIndex

_SHOWN = 5  # names in a message


def start_from(transformer: nn.Cell, folder: Path, new: Sequence[str]) -> None:
    """Copy the denoiser of a model folder into `transformer`, which keeps the initial values of new parameters alone.

    From the dense model to SUV the long skips are new: their [I | 0] leaves the output as it is. From text to video to
    inpainting the embeddings of the given frames are new, and add nothing at first (see `OpenSoraInpaint.from_t2v`).

    Args:
        transformer: its sparsity may differ from the source's, which has no weights of its own.
        new: attributes of `transformer` whose parameters the source may lack, such as "skip_norm_linear".

    Raises:
        InputError: a name in `new` that no missing parameter has; or other parameters missing, left over or of another
            shape. No parameter changes.
    """
    source = _read(folder)
    given = {parameter.name: parameter for parameter in source.get_parameters()}
    own = {parameter.name: parameter for parameter in transformer.get_parameters()}
    missing = own.keys() - given.keys()
    if unused := [name for name in new if not any(_within(parameter, (name,)) for parameter in missing)]:
        lacking = sorted({parameter.split(".")[0] for parameter in missing})
        raise InputError(
            f"run.new_parameters = {shown(unused[0])}: {str(folder)!r} lacks "
            f"{', '.join(lacking) or 'no parameter of this model'}; name these alone"
        )
    faults = {
        "missing, and not in run.new_parameters": {name for name in missing if not _within(name, new)},
        "unexpected": given.keys() - own.keys(),
        "of another shape": {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape},
    }
    if any(faults.values()):
        said = "; ".join(f"{fault}: {_list(names)}" for fault, names in faults.items() if names)
        raise InputError(f"run.init = {str(folder)!r} does not fit the recipe's transformer: {said}")
    if registry.spec_of(transformer).takes_frames and not registry.spec_of(source).takes_frames:
        start = type(transformer).from_t2v(source, transformer.config.vae_scale_factor_t)
        given = {parameter.name: parameter for parameter in start.get_parameters()}
    for name in own.keys() & given.keys():
        own[name].set_data(given[name].value().astype(own[name].dtype))


def _read(folder: Path) -> nn.Cell:
    """The denoiser of a model folder, with its weights."""
    spec = registry.spec(ModelIndex.read(folder).transformer[1])
    return load(spec.cell.from_upstream(read_json(folder / "transformer" / "config.json")), folder / "transformer")


def _within(parameter: str, attributes: Sequence[str]) -> bool:
    return parameter.split(".")[0] in attributes


def _list(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
