"""Fill a Cell from arrays with upstream's names, and export its parameters under these names."""

import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from mindspore import Tensor, nn
from mindspore.common import dtype as mstype

from mindsora.ckpt_convert.checkpoint import Checkpoint, open_checkpoint
from mindsora.ckpt_convert.dtypes import WEIGHTS
from mindsora.ckpt_convert.entry import ArrayEntry, Entry
from mindsora.ckpt_convert.formats import safetensors_file
from mindsora.ckpt_convert.recognise import canonical, fit, naming, says, setting
from mindsora.errors import InputError, shown
from mindsora.files import replacing
from mindsora.models import registry
from mindsora.parallel.collectives import ALONE, Group

_NUMPY = {mstype.float32: np.float32, mstype.float16: np.float16, mstype.bfloat16: ml_dtypes.bfloat16}


def load(cell: nn.Cell, source: Mapping | str | os.PathLike, ema: bool | None = None, tp: Group = ALONE) -> nn.Cell:
    """Fill every parameter of `cell`, one tensor at a time, in the parameter's dtype.

    Args:
        cell: a model Cell that has a name table.
        source: mapping of upstream name to array, or any source of `open_checkpoint`.
        ema: see `open_checkpoint`.
        tp: tensor-parallel ranks that share the Cell; each reads its own slices of the checkpoint.

    Returns:
        The same Cell.

    Raises:
        InputError: the file is missing or corrupt; or keys are missing, unexpected or wrongly shaped (the message lists
            all of them); or the file holds a setting, such as `scale` and `shift` of an autoencoder that was wrapped
            for the diffusion model, and the Cell was built with another value. The Cell does not change: `load` first
            compares the checksums that a file has.
    """
    if isinstance(source, Mapping):
        entries = {key: _entry(key, value) for key, value in source.items()}
        _fill(cell, _fitting(cell, entries, "upstream", "weights", tp))
    else:
        with open_checkpoint(source, ema) as checkpoint:
            _fill(cell, entries_for(cell, checkpoint, tp))
    return cell


def entries_for(cell: nn.Cell, checkpoint: Checkpoint, tp: Group = ALONE) -> dict[str, Entry]:
    """Parameter name -> its tensor, or a rank's slice of it, in the checkpoint, unread. Raises InputError as `load`."""
    return _fitting(cell, checkpoint, naming(registry.spec_of(cell).names, checkpoint), str(checkpoint.path), tp)


def _entry(key: str, value) -> Entry:
    return value if isinstance(value, Entry) else ArrayEntry(key, np.asarray(value))


def _fitting(cell: nn.Cell, entries: Mapping[str, Entry], names: str, where: str, tp: Group) -> dict[str, Entry]:
    spec = registry.spec_of(cell)
    table = spec.names
    tensors, _ = canonical(table, entries, names)
    if tp.size > 1 and spec.is_sharded:
        axes = {name: spec.sharding.axis(name) for name in tensors}
        tensors |= {name: tensors[name].part(axis, tp.rank, tp.size) for name, axis in axes.items() if axis is not None}
    for key in table.settings:
        own = getattr(cell.config, key)
        if key in tensors and not says(own, values := setting(tensors[key], where)):
            raise InputError(
                f"{where}: the tensor {shown(key)} says {str(values.tolist())[:200]}, the Cell's configuration "
                f"{key} = {str(own)[:200]}; build the Cell with the tensor's"
            )
    tensors = fit(table, cell, tensors, where)
    for name, entry in tensors.items():
        if entry.dtype not in WEIGHTS:
            raise InputError(
                f"{where}: tensor {shown(name)} is {entry.dtype}, which is no weight without its scale; "
                f"known: {', '.join(WEIGHTS)}"
            )
        entry.check()
    return {parameter.name: tensors[table.upstream_name(parameter.name)] for parameter in cell.get_parameters()}


def _fill(cell: nn.Cell, entries: dict[str, Entry]) -> None:
    for parameter in cell.get_parameters():
        parameter.set_data(as_tensor(entries[parameter.name].numpy(), parameter.dtype))


def as_tensor(array: np.ndarray, dtype) -> Tensor:
    """Convert values from a checkpoint to a MindSpore dtype: float32, float16 or bfloat16."""
    return Tensor(array.astype(_NUMPY[dtype], copy=False), dtype=dtype)


def shapes(source: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Upstream name -> shape of every tensor in a checkpoint. Reads only headers. Raises as `load`."""
    with open_checkpoint(source) as checkpoint:
        return checkpoint.shapes


def upstream_state(cell: nn.Cell) -> dict[str, np.ndarray]:
    """The Cell's parameters, and the constants that upstream stores with them, under upstream's names."""
    table = registry.spec_of(cell).names
    state = {table.upstream_name(p.name): p.asnumpy() for p in cell.get_parameters()}
    return state | table.constants(cell)


def save(cell: nn.Cell, path: str | os.PathLike, dtype: np.dtype | None = None) -> None:
    """Write the Cell to a safetensors file under upstream's names (to a temporary name first, then renamed)."""
    state = {key: value if dtype is None else value.astype(dtype) for key, value in upstream_state(cell).items()}
    with replacing(Path(path)) as out:
        for _ in safetensors_file.write(
            out, [ArrayEntry(key, value) for key, value in state.items()], {"format": "np"}
        ):
            pass
