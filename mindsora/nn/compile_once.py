"""One graph for the equal blocks of a model, which more than halves the time that compiling takes (docs/compile.md)."""

import hashlib
from collections.abc import Iterable
from itertools import count

from mindspore import Tensor, nn

_lists = count()
_EVERY_CELL = frozenset(vars(nn.Cell()))  # MindSpore's own attributes


def compile_once(cells: Iterable[nn.Cell]) -> list[nn.Cell]:
    """Give the Cells of a list that are of one `kind` one graph until the compiler is nearly done.

    MindSpore parses one Cell for each value of `cell_init_args` and has the others call its graph with their parameters.
    Its own `lazy_inline` forms that value from the arguments of `__init__` without their names, for all Cells of a
    program: blocks that differ in what the arguments do not say share a graph, and so do blocks of one model whose
    inputs have different sizes, where MindSpore 2.10 was seen to give one the shape of another.

    Args:
        cells: what a model calls with inputs of equal shapes and dtypes, once each; complete, but for values of
            parameters and flags, which MindSpore adds to the name.
    """
    cells, number = list(cells), next(_lists)
    for cell in cells:
        cell.no_inline = False  # the graph is a call up to the end of the compiler's front, as lazy_inline's "front"
        cell.cell_init_args = f"lazy_inline_{number}_{kind(cell)}"
    return cells


def kind(cell: nn.Cell) -> str:
    """A checksum of all that a Cell's graph can follow from: class, attributes, parameters' shapes, parts.

    Equal only for Cells that are equal but for the values of their parameters.
    """
    return hashlib.sha256(repr(_description(cell)).encode()).hexdigest()[:16]


def _description(cell: nn.Cell) -> tuple:
    attributes = {name: value for name, value in vars(cell).items() if name not in _EVERY_CELL}
    attributes |= vars(cell)["_primitives"]
    return (
        type(cell).__module__,
        type(cell).__qualname__,
        sorted((name, _value(value)) for name, value in attributes.items()),
        [(name, p.shape, str(p.dtype)) for name, p in cell._params.items() if p is not None],
        [(name, _description(part)) for name, part in cell._cells.items() if part is not None],
    )


def _value(value) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.asnumpy().tobytes()).hexdigest()}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} {[_value(part) for part in value]}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return f"object {id(value)}"  # equal only to itself
