"""Fill a Cell from upstream-named arrays, and give its parameters back under upstream's names."""

import os
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ml_dtypes
import numpy as np
from mindspore import Tensor, nn
from mindspore.common import dtype as mstype
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mindsora.ckpt_convert.names import table_for
from mindsora.config import read_json
from mindsora.errors import InputError

_NUMPY = {mstype.float32: np.float32, mstype.float16: np.float16, mstype.bfloat16: ml_dtypes.bfloat16}


def load(cell: nn.Cell, source: Mapping | str | os.PathLike) -> nn.Cell:
    """Fill every parameter of `cell`, one tensor at a time, in the dtype the parameter has.

    Args:
        cell: a model Cell that has a name table.
        source: mapping of upstream name to array; or a safetensors file, the index of a sharded one
            (`*.safetensors.index.json`), or a folder that holds either.

    Returns:
        The same Cell.

    Raises:
        InputError: the file is missing or corrupt, or keys are missing, unexpected or wrongly shaped; all of them
            are listed at once and the Cell is left as it was.
    """
    if isinstance(source, Mapping):
        return _fill(cell, source.keys(), lambda key: np.shape(source[key]), lambda key: np.asarray(source[key]), "weights")
    with _opened(source) as holder:
        return _fill(cell, holder.keys(), lambda k: _shape(holder, k), lambda k: holder[k].get_tensor(k), str(source))


def shapes(source: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Upstream name to shape of every tensor in a file, index or folder; only headers are read. Raises as `load`."""
    with _opened(source) as holder:
        return {key: _shape(holder, key) for key in holder}


def _shape(holder, key: str) -> tuple[int, ...]:
    return tuple(holder[key].get_slice(key).get_shape())


@contextmanager
def _opened(source: str | os.PathLike):
    """Tensor name to the open safetensors file that holds it."""
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in weight_files(source)]
        yield {key: file for file in files for key in file.keys()}


def weight_files(source: str | os.PathLike) -> list[Path]:
    """The safetensors files behind a path: the file itself, the shards of an index, or what a folder holds."""
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise InputError(f"folder {str(path)!r} must hold one safetensors file or one index; found {names}")
        path = found[0]
    if path.name.endswith(".index.json"):
        shards = read_json(path).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise InputError(f"{str(path)!r} has no weight_map; fetch it again")
        return [path.with_name(name) for name in sorted(set(shards.values()))]
    return [path]


def _open(path: Path):
    if not path.is_file():
        raise InputError(f"weight file {str(path)!r} does not exist")
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is not a whole safetensors file ({error}); fetch it again") from error


def _equals_constant(found: np.ndarray, value: np.ndarray) -> bool:
    """In the precision of the file: a float16 file holds the constants rounded to float16."""
    return np.array_equal(found, value.astype(found.dtype))


def _fill(cell, keys, shape_of, read, where):
    table = table_for(cell)
    parameters = {table.upstream_name(p.name): p for p in cell.get_parameters()}
    constants = table.constants(cell)
    found = {name: key for key in keys if (name := table.normalise(key)) is not None}
    missing = sorted(parameters.keys() - found.keys())
    known = parameters.keys() | constants.keys() | table.tolerated(cell)
    unexpected = sorted(found[name] for name in found.keys() - known)
    wrong = [
        f"{name}: {shape_of(found[name])}, expected {tuple(p.shape)}"
        for name, p in parameters.items()
        if name in found and tuple(shape_of(found[name])) != tuple(p.shape)
    ]
    wrong += [
        f"{name}: not the fixed values of this architecture"
        for name, value in constants.items()
        if name in found and not _equals_constant(read(found[name]), value)
    ]
    if missing or unexpected or wrong:
        raise InputError(
            f"{where} does not fit {type(cell).__name__}: missing {missing}; unexpected {unexpected}; wrong shape {wrong}"
        )
    for name, parameter in parameters.items():
        array = np.ascontiguousarray(read(found[name])).astype(_NUMPY[parameter.dtype], copy=False)
        parameter.set_data(Tensor(array, dtype=parameter.dtype))
    return cell


def upstream_state(cell: nn.Cell) -> dict[str, np.ndarray]:
    """The Cell's parameters, and the constants stored beside them, under upstream's names."""
    table = table_for(cell)
    state = {table.upstream_name(p.name): p.asnumpy() for p in cell.get_parameters()}
    return state | table.constants(cell)


def save(cell: nn.Cell, path: str | os.PathLike, dtype: np.dtype | None = None) -> None:
    """Write the Cell to a safetensors file under upstream's names (to a temporary name first, then renamed)."""
    path = Path(path)
    state = {k: np.ascontiguousarray(v if dtype is None else v.astype(dtype)) for k, v in upstream_state(cell).items()}
    temporary = path.with_name(path.name + ".partial")
    save_file(state, temporary, metadata={"format": "np"})
    temporary.chmod(0o644)  # safetensors gives what it writes to its owner alone
    os.replace(temporary, path)
