"""LoRA in a loaded pipeline: the denoiser's weights become those of its file plus the updates.

Nothing is added to a denoising step, and no graph compiles again. An offloaded denoiser, whose layers stay in the file,
adds the updates whenever it reads a layer.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mindspore import nn

from mindsora.ckpt_convert import open_checkpoint
from mindsora.ckpt_convert.cells import as_tensor
from mindsora.ckpt_convert.entry import Entry
from mindsora.ckpt_convert.lora import Merged, Update
from mindsora.ckpt_convert.recognise import upstream_entries
from mindsora.models import registry
from mindsora.pipelines.offload import streamed_layers


def set_updates(cell: nn.Cell, folder: Path, loras: Sequence[Mapping[str, Update]], names: Collection[str]) -> None:
    """Give weights of a denoiser the values of its checkpoint plus the sum of updates.

    Args:
        folder: of the checkpoint.
        loras: each upstream's name of a weight -> its update.
        names: upstream's names of the weights to write: those of `loras`, and those that an earlier call has changed.
    """
    table = registry.spec_of(cell).names
    updates = {name: [lora[name] for lora in loras if name in lora] for name in names}
    with open_checkpoint(folder) as checkpoint:
        entries = upstream_entries(table, checkpoint)
        for parameter in cell.get_parameters():
            if (name := table.upstream_name(parameter.name)) in updates:
                value = _plus(entries[name], updates[name]).numpy()
                parameter.copy_(
                    as_tensor(value, parameter.dtype)
                )  # in place: graphs read the memory they compiled with
    for layer in streamed_layers(cell):
        layer.weights = [(slot, _plus(entry, updates.get(entry.name, ()))) for slot, entry in layer.weights]


def _plus(entry: Entry, updates: Sequence[Update]) -> Entry:
    """A weight with these updates and no others; in float32, so that the sum is rounded once, to the model's dtype."""
    weight = entry.entry if isinstance(entry, Merged) else entry
    return Merged(weight, updates, "float32") if updates else weight
