"""Share one graph among the equal blocks of a model: this more than halves compile time (docs/compile.md)."""

import hashlib
from collections.abc import Iterable
from itertools import count

from mindspore import Tensor, nn

_lists = count()
_EVERY_CELL = frozenset(vars(nn.Cell()))  # MindSpore's own attributes


def compile_once(cells: Iterable[nn.Cell]) -> list[nn.Cell]:
    """Let all Cells of one `kind` in a list share one graph through the front end of the compiler.

    MindSpore parses one Cell for each value of `cell_init_args`; the other Cells call its graph with their parameters.
    Its own `lazy_inline` builds that value from the arguments of `__init__` without their names, for all Cells of a
    program. Then blocks share a graph even if they differ in something that the arguments do not show, or if their
    inputs have different sizes; MindSpore 2.10 has given one such block the shape of another.

    Args:
        cells: the Cells, each of which the model calls once, with inputs of equal shapes and dtypes. They must be
            complete except for values of parameters and flags, which MindSpore adds to the name.
    """
    cells, number = list(cells), next(_lists)
    for cell in cells:
        cell.no_inline = False  # inline after the compiler's front end, like lazy_inline's "front"
        cell.cell_init_args = f"lazy_inline_{number}_{kind(cell)}"
    return cells


def kind(cell: nn.Cell) -> str:
    """Return a checksum of everything that determines a Cell's graph: class, attributes, parameter shapes, child Cells.

    Two Cells have the same checksum only if they differ in nothing but the values of their parameters.
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
    return f"object {id(value)}"  # two objects count as equal only if they are the same object
