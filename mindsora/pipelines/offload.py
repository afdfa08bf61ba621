"""Models that do not fit into memory: their layers stay in the file, and a layer is read when it is called.

A model repeats its blocks. A streamed model keeps the parameters of one block, reads the weights of each block into them
in turn, and keeps one compiled graph for each kind of block. From the token embedding it reads only the rows that a
prompt needs. The rest of the model, a few percent, stays in memory.

Files are read by position and not mapped, because the pages of a mapped file count as the process's memory.
"""

import weakref
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindsora.ckpt_convert import Entry, open_checkpoint
from mindsora.ckpt_convert.cells import as_tensor, entries_for
from mindsora.errors import InputError
from mindsora.interrupts import interruptible
from mindsora.models import registry


def stream(cell: nn.Cell, source: Path, jit: str) -> nn.Cell:
    """Make a model read its layers and its token embedding from their file at every call, and load the other parameters.

    Args:
        cell: a model with `streamed_layers` (see ModelSpec) in its dtypes and in inference mode, whose parameters have no
            values yet (see `build` of mindsora.pipelines.components). Call it afterwards in PyNative: its layers are the
            graphs.
        source: its checkpoint, safetensors of any floating-point type, in one file or several. It stays open until the
            model is garbage-collected.
        jit: "O0" or "O1" compiles each kind of layer at its first call with a size; "off" runs the layers in PyNative.

    Returns:
        The same Cell.

    Raises:
        InputError: as `ckpt_convert.load`; also where the checkpoint is not safetensors.
    """
    checkpoint = open_checkpoint(source)
    weakref.finalize(cell, checkpoint.close)
    if checkpoint.container != "safetensors":
        # Other containers are compressed, scattered or checked as a whole: work to do once, not at every step.
        raise InputError(
            f"{str(source)!r} is {checkpoint.container}: offload reads layer by layer, and safetensors "
            f"alone; write them with `mindsora convert {source} NEW_FOLDER`"
        )
    entries = entries_for(cell, checkpoint)
    slots, graphs = _slots(cell), {}

    def streamed(layer: nn.Cell) -> StreamedLayer:
        weights = [(slots[_slot(path, p)], entries[p.name]) for path, p in layer.parameters_and_names()]
        if (kind := _kind(layer)) not in graphs:
            for path, parameter in layer.parameters_and_names():
                _replace(layer, path, slots[_slot(path, parameter)])
            graphs[kind] = layer if jit == "off" else ms.jit(layer, jit_level=jit)
        return StreamedLayer(graphs[kind], weights)

    for name in registry.spec_of(cell).streamed_layers:
        layers = _each(getattr(cell, name), streamed)
        delattr(cell, name)  # a Cell's attribute cannot become a list
        setattr(cell, name, layers)
    if name := registry.spec_of(cell).streamed_table:
        table = getattr(cell, name).weight
        delattr(cell, name)
        setattr(cell, name, StreamedTable(entries[table.name], table.dtype))
    for parameter in cell.get_parameters():
        parameter.set_data(as_tensor(entries[parameter.name].numpy(), parameter.dtype))
    for slot in slots.values():
        slot.set_data(as_tensor(np.zeros(slot.shape, np.float32), slot.dtype))
    return cell


def streamed_layers(cell: nn.Cell) -> list["StreamedLayer"]:
    """The layers that a model reads from their file; none where it is not streamed."""
    found = []
    for name in registry.spec_of(cell).streamed_layers:
        layers = getattr(cell, name)
        if isinstance(layers, list):
            _each(layers, found.append)
    return found


def held(cell: nn.Cell) -> list[Parameter]:
    """The parameters that a model with `streamed_layers` keeps in memory when it is streamed."""
    table = registry.spec_of(cell).streamed_table
    in_file = {p.name for layer in _layers(cell) for p in layer.get_parameters()}
    in_file |= {p.name for p in getattr(cell, table).get_parameters()} if table else set()
    return [p for p in cell.get_parameters() if p.name not in in_file] + list(_slots(cell).values())


def kinds(cell: nn.Cell) -> int:
    """How many kinds of layers a model with `streamed_layers` has. Each kind is one graph per shape of its inputs."""
    return len({_kind(layer) for layer in _layers(cell)})


class StreamedLayer:
    """A layer that reads its weights when it is called.

    Args:
        run: the layer's computation, with the parameters that all layers share.
        weights: pairs of such a parameter and the checkpoint entry that is read into it.
    """

    def __init__(self, run: Callable, weights: list[tuple[Parameter, Entry]]):
        self.run, self.weights = run, weights

    def __call__(self, *inputs):
        # Wait for the layer before. Otherwise reading runs ahead of it, and memory fills with weights not yet used.
        inputs[0].reshape(-1)[:1].asnumpy()
        for parameter, entry in self.weights:
            array = entry.numpy()
            if entry.dtype == "bfloat16" and parameter.dtype == ms.float32:
                array = array.astype(np.float32)  # six times faster on CPU than the cast in copy_
            parameter.copy_(Tensor.from_numpy(array))  # in place: a graph reads the memory that it was compiled with
        # Mutable, because a graph takes the Tensors of a plain tuple as constants. A mutable tuple has another type.
        with interruptible():
            return self.run(*(ms.mutable(value) if type(value) is tuple else value for value in inputs))


class StreamedTable:
    """An embedding that reads from its file only the rows it looks up. ids: (...) int32 -> (..., dim) in `dtype`."""

    def __init__(self, entry: Entry, dtype):
        self.entry, self.dtype = entry, dtype

    def __call__(self, ids: Tensor) -> Tensor:
        width = self.entry.shape[1]
        rows, where = np.unique(ids.asnumpy(), return_inverse=True)
        read = np.stack([self.entry.read(row * width, (row + 1) * width) for row in map(int, rows)])
        return as_tensor(read[where.reshape(ids.shape)], self.dtype)


def _layers(cell: nn.Cell) -> list[nn.Cell]:
    found = []
    for name in registry.spec_of(cell).streamed_layers:
        _each(getattr(cell, name), found.append)
    return found


def _each(layers: nn.CellList, function: Callable) -> list:
    """Apply a function to every layer, in lists nested as the layers are (SUV has a list of lists)."""
    return [_each(layer, function) if isinstance(layer, nn.CellList | list) else function(layer) for layer in layers]


def _slots(cell: nn.Cell) -> dict[tuple, Parameter]:
    """The parameters that layers are read into. Layers share one where its path, shape and dtype are the same."""
    slots = {}
    for layer in _layers(cell):
        for path, parameter in layer.parameters_and_names():
            slots.setdefault(_slot(path, parameter), parameter)
    return slots


def _slot(path: str, parameter: Parameter) -> tuple:
    return path, tuple(parameter.shape), str(parameter.dtype)


def _replace(layer: nn.Cell, path: str, parameter: Parameter) -> None:
    """Give a layer another Parameter at a path such as "attn1.to_q.weight"."""
    *parents, name = path.split(".")
    for parent in parents:
        layer = getattr(layer, parent)
    setattr(layer, name, parameter)


def _kind(layer: nn.Cell) -> tuple:
    """What determines a layer's graph: its class, attributes, parameter shapes, and the kinds of its sub-Cells."""
    own = {name: value for name, value in vars(layer).items() if name not in _OF_EVERY_CELL}
    parameters = tuple(_slot(path, p) for path, p in layer.parameters_and_names(expand=False))
    parts = tuple((name, _kind(part)) for name, part in layer.name_cells().items())
    return type(layer), repr(sorted(own.items())), parameters, parts


_OF_EVERY_CELL = vars(nn.Cell()).keys()
