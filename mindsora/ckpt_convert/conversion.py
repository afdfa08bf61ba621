"""Convert any checkpoint of the Open-Sora Plan line into any of its formats, in slices."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindsora.ckpt_convert.checkpoint import Checkpoint, open_checkpoint
from mindsora.ckpt_convert.dtypes import CASTS, FLOATING, MINDSPORE, NUMPY, WEIGHTS
from mindsora.ckpt_convert.entry import ArrayEntry, Cast, Entry, Part, ahead
from mindsora.ckpt_convert.formats import megatron, mindspore_file, safetensors_file, torch_file
from mindsora.ckpt_convert.lora import Merged, fitted, read_lora
from mindsora.ckpt_convert.recognise import CELL_NAMES, Recognised, build_cell, fit, recognise
from mindsora.errors import InputError, shown
from mindsora.files import claimed, replacing, replacing_folder
from mindsora.models import registry

TARGETS = ("diffusers", "torch", "mindspore", "mindspeed-mm")
_BY_ENDING = {".safetensors": "diffusers", ".pt": "torch", ".pth": "torch", ".bin": "torch", ".ckpt": "mindspore"}
_ENDINGS = {
    "diffusers": (".safetensors",),
    "torch": (".pt", ".pth", ".bin", ".ckpt"),
    "mindspore": (".ckpt", ".safetensors"),
    "mindspeed-mm": (),
}
SHARD = 5_000_000_000  # bytes of a shard, the default of transformers

# Type, magnitude mask and infinity: a value whose masked bits reach the last number is infinite or NaN.
_NONFINITE = {
    "float64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "float32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "float16": (np.uint16, 0x7FFF, 0x7C00),
    "bfloat16": (np.uint16, 0x7FFF, 0x7F80),
    "float8_e4m3fn": (np.uint8, 0x7F, 0x7F),
    "float8_e5m2": (np.uint8, 0x7F, 0x7C),
}
_BLOCK = 2**17  # elements that stay in the processor's cache


@dataclass(frozen=True)
class Report:
    """The result of a conversion.

    Attributes:
        container, wrapper, names: of the source, see Checkpoint and Recognised.
        model: class name.
        tensors, nbytes: number of tensors and bytes written.
        seconds: from the first tensor to the rename.
        assumed: written config keys that neither the weights nor a config.json determine.
        dropped: names in the source that carry no weight of the model.
        overflowed, changed: elements that became infinite, or were rounded, by --dtype.
        warnings: other facts that a user should check.
    """

    container: str
    wrapper: str
    names: str
    model: str
    to: str
    tensors: int
    nbytes: int
    seconds: float
    assumed: dict
    dropped: list[str]
    overflowed: int
    changed: int
    warnings: list[str]


def convert(
    source,
    target,
    *,
    to: str | None = None,
    model: str = "auto",
    tp: int | None = None,
    dtype: str | None = None,
    ema: bool | None = None,
    allow_nonfinite: bool = False,
    loras: Sequence[tuple[str, float]] = (),
    shard: int = SHARD,
    progress: bool = False,
) -> Report:
    """Convert a checkpoint. The target appears whole or not at all; the source does not change.

    While it runs, another `convert` to the same target is refused.

    Args:
        source: any source of `open_checkpoint`.
        target: a file, or a folder (weights and config.json). It must not exist.
        to: one of TARGETS; None picks it by the target's ending (.safetensors, .pt/.pth/.bin, .ckpt; a folder:
            diffusers). "mindspore" uses the Cells' own parameter names, the others upstream's.
        model: a class name of `mindsora.models`; "auto" recognises it by the tensor names.
        tp: tensor-parallel ranks of a MindSpeed-MM target.
        dtype: "bf16", "fp16" or "fp32" for all floating-point tensors; None keeps each dtype.
        ema: see `open_checkpoint`.
        allow_nonfinite: copy infinite values and NaN instead of refusing them.
        loras: LoRA files and their scales; the target holds the weights plus their updates, summed in float32.
        shard: largest safetensors file of a folder, in bytes.
        progress: draw a bar on standard error.

    Raises:
        InputError: a bad argument, a refused source, tensors that do not fit the model, not enough disk.
    """
    target = Path(target) if Path(target).name else Path(target).absolute()  # "." has no name
    to, dtype = (name.lower() if isinstance(name, str) else name for name in (to, dtype))
    to = _kind(target, to, tp)
    ranks = 1 if tp is None else tp
    if dtype is not None and dtype not in CASTS:
        raise InputError(f"dtype {dtype!r}: choose from {', '.join(CASTS)}")
    _check_absent(target)
    if not target.parent.is_dir():
        raise InputError(f"target {shown(target)}: its folder does not exist")
    with claimed(target), open_checkpoint(source, ema) as checkpoint:
        _check_absent(target)  # another process may have written it since
        recognised = recognise(checkpoint, model)
        if to == "mindspeed-mm":
            _check_ranks(recognised, ranks)
        _merge(recognised, loras, dtype)
        if not allow_nonfinite:
            recognised.tensors.update({name: Finite(entry) for name, entry in recognised.tensors.items()})
        entries, casts = _entries(checkpoint, recognised, to, dtype)
        nbytes = sum(_copies(recognised, entry, to, ranks) * entry.nbytes for entry in entries)
        _check_disk(target, nbytes)
        begin = time.perf_counter()
        silent = {} if progress else {"disable": True}  # tqdm reads TQDM_DISABLE where `disable` is not given
        with tqdm(total=nbytes, unit="B", unit_scale=True, desc=target.name, **silent) as bar:
            try:
                for done in _write(target, to, entries, recognised, tp or 1, shard):
                    bar.update(done)
            except OSError as error:  # reading raises InputError
                raise InputError(f"cannot write {shown(target)}: {error.strerror}; nothing of it is left") from error
        return Report(
            checkpoint.container,
            checkpoint.wrapper,
            recognised.names,
            recognised.model,
            to,
            len(entries),
            nbytes,
            time.perf_counter() - begin,
            recognised.assumed,
            recognised.dropped,
            sum(c.overflowed for c in casts),
            sum(c.changed for c in casts),
            _warnings(checkpoint, recognised, target, to, ranks),
        )


def _check_absent(target: Path) -> None:
    try:
        absent = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise InputError(f"target {shown(target)}: {error.strerror}") from error
    if not absent:
        raise InputError(f"target {shown(target)} exists; remove it or name another")


def _merge(recognised: Recognised, loras: Sequence[tuple[str, float]], dtype: str | None) -> None:
    """Add LoRA updates to the recognised weights, which become lazy sums."""
    shapes, updates = {name: entry.shape for name, entry in recognised.tensors.items()}, {}
    for file, scale in loras:
        for name, update in fitted(read_lora(file, scale), shapes, file, recognised.model).items():
            updates.setdefault(name, []).append(update)
    for name, sums in updates.items():
        entry = recognised.tensors[name]
        if entry.dtype not in WEIGHTS:
            raise InputError(
                f"tensor {name!r} is {entry.dtype}: a LoRA cannot be added to it; convert its weights first"
            )
        # Rounded once: straight to the dtype of the target.
        recognised.tensors[name] = Merged(entry, sums, CASTS[dtype] if dtype else entry.dtype)


def _kind(target: Path, to: str | None, tp: int | None) -> str:
    """The target's format; raises InputError if the target's name does not fit it."""
    ending = target.suffix if target.suffix in _BY_ENDING else ""
    if to is None:
        to = "mindspeed-mm" if tp is not None else _BY_ENDING.get(ending, "diffusers")
    if to not in TARGETS:
        raise InputError(f"to = {to!r}: choose from {', '.join(TARGETS)}")
    if ending and ending not in _ENDINGS[to]:
        legal = ", ".join(_ENDINGS[to]) or "none"
        raise InputError(f"target {shown(target)}: {to} is written to a folder, or to a file ending in: {legal}")
    if (tp is not None) != (to == "mindspeed-mm"):
        raise InputError(
            f"tp = {tp} with to = {to}: the number of tensor-parallel ranks belongs to mindspeed-mm, which needs it"
        )
    return to


def _check_ranks(recognised: Recognised, tp: int) -> None:
    if recognised.spec not in registry.mindspeed():
        trained = " and ".join(spec.name for spec in registry.mindspeed())
        raise InputError(f"{recognised.model} has no MindSpeed-MM layout; only {trained} was trained there")
    heads = recognised.config[recognised.spec.sharding.heads]
    legal = [n for n in range(1, min(heads, 256) + 1) if heads % n == 0]
    if tp not in legal:
        raise InputError(f"tp = {tp} must divide the {heads} heads; legal: {', '.join(map(str, legal))}")


def _copies(recognised: Recognised, entry: Entry, to: str, tp: int) -> int:
    """How often a tensor's bytes are written: every rank holds the tensors that are not split between ranks."""
    return tp if to == "mindspeed-mm" and recognised.spec.sharding.axis(entry.name) is None else 1


def _check_disk(target: Path, nbytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if nbytes * 1.01 > free:
        raise InputError(f"target {shown(target)} takes {nbytes / 1e6:,.3f} MB; its disk has {free / 1e6:,.3f} free")


def _entries(
    checkpoint: Checkpoint, recognised: Recognised, to: str, dtype: str | None
) -> tuple[list[Entry], list[Cast]]:
    """The entries to write, under the target's names, and the casts among them."""
    table, cell = recognised.table, build_cell(recognised.model, recognised.config)
    tensors = fit(table, cell, recognised.tensors, str(checkpoint.path))
    if to == "mindspore":
        tensors = {p.name: tensors[table.upstream_name(p.name)].renamed(p.name) for p in cell.get_parameters()}
    else:
        usual = Counter(entry.dtype for entry in tensors.values()).most_common(1)[0][0]
        for name, value in table.constants(cell).items():
            tensors[name] = recognised.tensors.get(name) or ArrayEntry(name, value.astype(NUMPY[usual]))
    casts = []
    if dtype:
        for name, entry in tensors.items():
            if entry.dtype in FLOATING and entry.dtype != CASTS[dtype]:
                if entry.dtype.startswith("float8"):
                    raise InputError(
                        f"tensor {shown(name)} is {entry.dtype}: without its scales it cannot be cast; leave --dtype out"
                    )
                casts.append(Cast(entry, CASTS[dtype]))
                tensors[name] = casts[-1]
    if to in ("mindspore", "mindspeed-mm"):
        for name, entry in tensors.items():
            if entry.dtype not in MINDSPORE:
                raise InputError(
                    f"tensor {shown(name)} is {entry.dtype}, which {to} does not have; choose diffusers or torch"
                )
    return list(tensors.values()), casts


class Finite(Entry):
    """A tensor whose infinite values and NaN are refused."""

    def __init__(self, entry: Entry):
        super().__init__(entry.name, entry.dtype, entry.shape)
        self._entry = entry

    def check(self):
        self._entry.check()

    def read(self, start, stop):
        return self._checked(self._entry.read(start, stop))

    def slices(self, *size):
        return map(self._checked, ahead(self._entry.slices(*size)))

    def _checked(self, piece: np.ndarray) -> np.ndarray:
        if self.dtype in _NONFINITE:
            kind, mask, limit = _NONFINITE[self.dtype]
            bits = piece.view(kind)
            # In blocks, because a temporary of the size of the slice costs more than the comparison.
            if any((bits[i : i + _BLOCK] & kind(mask)).max() >= limit for i in range(0, bits.size, _BLOCK)):
                raise InputError(
                    f"tensor {shown(self.name)} holds infinite values or NaN; --allow-nonfinite copies them"
                )
        return piece


def _warnings(checkpoint: Checkpoint, recognised: Recognised, target: Path, to: str, tp: int) -> list[str]:
    warnings = []
    if recognised.settings and target.suffix in _BY_ENDING:
        warnings.append(
            f"the source's {' and '.join(recognised.settings)} belong in a config.json, which one file does not "
            "have; convert to a folder to keep them"
        )
    if scaled := [entry for entry in recognised.tensors.values() if entry.dtype not in WEIGHTS]:
        names = ", ".join(f"{shown(entry.name, 80)} ({entry.dtype})" for entry in scaled[:4])
        warnings.append(f"{len(scaled)} tensors are no weights without their scales, and no Cell takes them: {names}")
    if differing := checkpoint.differing_replicas():
        warnings.append(
            f"{len(differing)} tensors that all ranks share differ between them; the last rank's were taken, "
            f"as upstream does: {', '.join(differing[:4])}"
        )
    if to == "mindspeed-mm" and tp > 1 and not recognised.config.get("last_block_text"):
        warnings.append(
            "the source lacks the six unused tensors of the last block that a model trained with TP > 1 has; "
            "MindSpeed-MM initialises them"
        )
    return warnings


def _write(target: Path, to: str, entries: list[Entry], recognised: Recognised, tp: int, shard: int) -> Iterator[int]:
    """Write the target; yield the number of bytes after every slice."""
    stem, names = recognised.table.stem, {"format": "pt"}
    if target.suffix in _BY_ENDING:
        with replacing(target) as out:
            if to == "torch":
                yield from torch_file.write(out, entries, _ties(recognised, entries))
            elif target.suffix == ".ckpt":
                yield from mindspore_file.write(out, entries)
            else:
                yield from safetensors_file.write(out, entries, {"names": CELL_NAMES} if to == "mindspore" else names)
        return
    with replacing_folder(target) as folder:
        (folder / "config.json").write_text(json.dumps(recognised.config, indent=2) + "\n", encoding="utf-8")
        if to == "mindspeed-mm":
            yield from _write_ranks(folder, entries, recognised, tp)
        elif to == "diffusers":
            yield from write_shards(folder, entries, stem, names, shard)
        else:
            # The torch files of transformers have another stem.
            name = f"{stem}.ckpt" if to == "mindspore" else f"{'pytorch_model' if stem == 'model' else stem}.bin"
            with replacing(folder / name) as out:
                yield from (
                    mindspore_file.write(out, entries)
                    if to == "mindspore"
                    else torch_file.write(out, entries, _ties(recognised, entries))
                )


def _ties(recognised: Recognised, entries: list[Entry]) -> dict[str, str]:
    present = {entry.name for entry in entries}
    return {second: first for second, first in recognised.table.tied.items() if first in present}


def write_shards(folder: Path, entries: list[Entry], stem: str, metadata: dict, shard: int = SHARD) -> Iterator[int]:
    """Write one safetensors file, or shards of at most `shard` bytes and their index; yield the bytes of every slice."""
    groups, room = [[]], shard
    for entry in entries:
        if groups[-1] and entry.nbytes > room:
            groups.append([])
            room = shard
        groups[-1].append(entry)
        room -= entry.nbytes
    where = {}
    for number, group in enumerate(groups, 1):
        part = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        where |= {entry.name: f"{stem}{part}.safetensors" for entry in group}
        with replacing(folder / f"{stem}{part}.safetensors") as out:
            yield from safetensors_file.write(out, group, metadata)
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(entry.nbytes for entry in entries)}, "weight_map": where}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_ranks(folder: Path, entries: list[Entry], recognised: Recognised, tp: int) -> Iterator[int]:
    (folder / megatron.TRACKER).write_text("release", encoding="utf-8")
    for rank in range(tp):
        path = folder / "release" / f"mp_rank_{rank:02d}"
        path.mkdir(parents=True)
        with replacing(path / megatron.FILE) as out:
            parts = [_part(recognised, entry, rank, tp) for entry in entries]
            yield from torch_file.write(out, parts, {}, {"checkpoint_version": 3.0, "iteration": 0})


def _part(recognised: Recognised, entry: Entry, rank: int, tp: int) -> Entry:
    axis = recognised.spec.sharding.axis(entry.name)
    return entry if axis is None or tp == 1 else Part(entry, axis, rank, tp)
