"""Open any checkpoint as a mapping from name to lazy tensor. Nothing is executed, and only headers are read."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mindsora.ckpt_convert.entry import Entry, File, Joined
from mindsora.ckpt_convert.formats import megatron, mindspore_file, safetensors_file, torch_file
from mindsora.ckpt_convert.formats.torch_pickle import Opaque, TensorRef
from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.models.sharding import Sharding

# Keys of the moving average and of the weights themselves in training checkpoints, in upstream's order of preference.
_AVERAGED = (("ema_model",), ("ema_state_dict",))
_LIVE = (("model",), ("state_dict", "gen_model"), ("state_dict",), ("module",))  # DeepSpeed has "module"
# What trainers add before all names (DDP, torch.compile, Lightning), and inside names (FSDP, activation checkpoints).
_PREFIXES = ("module.", "_orig_mod.", "model.")
_INFIXES = re.compile(r"(?<![^.])(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
MAX_NAME = 1000  # characters of a tensor's name
_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


class _Opened(NamedTuple):
    """One file; its fields are those of Checkpoint."""

    container: str
    entries: dict[str, Entry]
    wrapper: str = ""
    choices: tuple[str, ...] = ()
    metadata: dict[str, str] | None = None


class Checkpoint(Mapping):
    """Name -> Entry, in the file's order. Close it, or use it as a context manager.

    Attributes:
        path: the file or folder that was opened.
        container: "safetensors", "torch zip", "torch legacy", "MindSpore ckpt" or "MindSpeed-MM, TP n, PP n".
        wrapper: the place of the tensors in the file, such as "ema_state_dict, module."; "" at the top.
        choices: other wrappers in the file.
        metadata: safetensors' own.
        config: the config.json beside the weights, or None.
        files: the weight files.
    """

    def __init__(
        self,
        path: Path,
        container: str,
        entries: dict[str, Entry],
        files: list[Path],
        *,
        wrapper: str = "",
        choices: tuple[str, ...] = (),
        metadata: dict[str, str] | None = None,
        replicas: dict[str, list[Entry]] | None = None,
        stack: ExitStack,
    ):
        if not entries:
            raise InputError(f"{shown(path)} holds no tensors")
        self.path, self.container, self.files = path, container, files
        self.wrapper, self.choices, self.metadata = wrapper, choices, metadata or {}
        self._entries, self._replicas = entries, replicas or {}
        folder = path if path.is_dir() else path.parent
        self.config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
        self._stack = stack.pop_all()  # last: after an error the caller closes the files

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close the files; entries cannot be read any more."""
        self._stack.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self._entries.items()}

    def differing_replicas(self) -> list[str]:
        """Names of tensors that every tensor-parallel rank holds whole, but with different values."""
        return [
            name
            for name, copies in self._replicas.items()
            if any(copy.sha256() != copies[0].sha256() for copy in copies[1:])
        ]


def open_checkpoint(path: str | os.PathLike, ema: bool | None = None) -> Checkpoint:
    """Open a checkpoint, whatever its format.

    Args:
        path: a safetensors, torch (.pt, .pth, .ckpt, .bin; zip or legacy) or MindSpore file; the index of a sharded
            checkpoint (*.index.json); or a folder: of these, of a MindSpeed-MM checkpoint, or with model/ and
            model_ema/ in it. The first bytes of a file determine its format, not its ending.
        ema: True takes the moving average, False the weights themselves, None the average if there is one.

    Raises:
        InputError: no such file, an unknown or damaged format, refused content, or no average with ema=True.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long, or a folder without permission
        raise InputError(f"cannot read {shown(path)}: {error.strerror}") from error
    if is_folder:
        if megatron.looks_like(path):
            return _open_megatron(path, ema)
        if (path / "model_ema").is_dir() and (path / "model").is_dir():
            return open_checkpoint(path / ("model" if ema is False else "model_ema"))
    files = weight_files(path)
    with ExitStack() as stack:
        entries: dict[str, Entry] = {}
        opened = [_open_file(stack, file, ema) for file in files]
        for shard in opened:
            if twice := entries.keys() & shard.entries.keys():
                raise InputError(f"{shown(path)}: tensor {shown(sorted(twice)[0])} stands in two shards")
            entries |= shard.entries
        _check_wrappers(path, opened)
        if index := path if path.name.endswith(".index.json") else _index_of(path):
            _check_index(index, entries)
        container, _, wrapper, choices, metadata = opened[0]
        if ema and wrapper.split(",")[0] not in {".".join(keys) for keys in _AVERAGED}:
            raise InputError(f"{shown(path)} holds no moving average (ema_model, ema_state_dict); leave --ema out")
        return Checkpoint(
            path, container, entries, files, wrapper=wrapper, choices=choices, metadata=metadata, stack=stack
        )


def weight_files(source: str | os.PathLike) -> list[Path]:
    """The files behind a path: the file itself, the shards of an index, or the weight files of a folder."""
    path = Path(source)
    if path.is_dir():
        path = _index_of(path) or _only_file(path)
    if path.name.endswith(".index.json"):
        shards = read_json(path).get("weight_map")
        if not isinstance(shards, dict) or not shards or any(not isinstance(name, str) for name in shards.values()):
            raise InputError(f"{shown(path)} has no weight_map; fetch it again")
        if outside := [
            name for name in shards.values() if Path(name).name != name or name in ("", "..") or len(name) > 255
        ]:
            raise InputError(f"{shown(path)} names the shard {shown(outside[0])}: shards lie beside their index")
        return [path.with_name(name) for name in sorted(set(shards.values()))]
    if not path.is_file():
        raise InputError(f"weight file {shown(path)} does not exist")
    return [path]


def _index_of(folder: Path) -> Path | None:
    indices = sorted(folder.glob("*.safetensors.index.json")) or sorted(folder.glob("*.bin.index.json"))
    if len(indices) > 1:
        raise InputError(
            f"folder {shown(folder)} holds {len(indices)} indices; name one of "
            f"{', '.join(path.name for path in indices)}"
        )
    return indices[0] if indices else None


def _only_file(folder: Path) -> Path:
    """The one weight file of a folder; safetensors wins over the same weights in another format."""
    for ending in _ENDINGS:
        files = sorted(folder.glob(f"*{ending}"))
        if len(files) > 1:
            raise InputError(
                f"folder {shown(folder)} must hold one weight file or one index; found "
                f"{', '.join(path.name for path in files)}"
            )
        if files:
            return files[0]
    raise InputError(f"folder {shown(folder)} must hold one weight file or one index; found none")


def _check_index(index: Path, entries: dict[str, Entry]) -> None:
    listed = read_json(index)["weight_map"].keys()
    if missing := sorted(listed - entries.keys()):
        names = ", ".join(shown(name, 80) for name in missing[:8])
        raise InputError(f"{shown(index)} lists tensors that no shard holds: {names}")


def _check_wrappers(path: Path, opened: list[_Opened]) -> None:
    wrappers = sorted({file.wrapper for file in opened})
    if len(wrappers) > 1:
        raise InputError(
            f"{shown(path)}: the files must hold the same state dict; they hold {wrappers[0]!r} and {wrappers[1]!r}"
        )


def _open_file(stack: ExitStack, path: Path, ema: bool | None) -> _Opened:
    opened = _read_file(stack, path, ema)
    for name in opened.entries:
        if len(name) > MAX_NAME or not name.isprintable():
            raise InputError(
                f"{shown(path)}: no tensor is called {shown(name, 80)}; a name has at most {MAX_NAME} printable characters"
            )
    return opened


def _read_file(stack: ExitStack, path: Path, ema: bool | None) -> _Opened:
    if not path.is_file():
        raise InputError(f"weight file {shown(path)} does not exist")
    file = File(path)
    stack.callback(file.close)
    head = bytes(file.read(0, min(64, file.size)))
    if torch_file.looks_like_zip(head):
        return _Opened("torch zip", *_unwrap(file, torch_file.read_zip(file), ema))
    if torch_file.looks_like_legacy(head):
        return _Opened("torch legacy", *_unwrap(file, torch_file.read_legacy(file), ema))
    if safetensors_file.looks_like(head):
        entries, metadata = safetensors_file.read(file)
        entries, prefixes = _unprefixed(file, entries)
        return _Opened("safetensors", entries, ", ".join(prefixes), metadata=metadata)
    if mindspore_file.looks_like(head):
        return _Opened("MindSpore ckpt", mindspore_file.read(file))
    raise InputError(f"{file}: neither a whole safetensors, torch nor MindSpore file; fetch it again or name another")


def _unwrap(file: File, tree: torch_file.Tree, ema: bool | None) -> tuple[dict[str, Entry], str, tuple[str, ...]]:
    """The state dict inside a torch file's object, its wrapper, and the wrappers of the other state dicts."""
    root = tree.root
    if not isinstance(root, dict):
        kind = {TensorRef: "tensor", Opaque: getattr(root, "path", "")}.get(type(root), type(root).__name__)
        raise InputError(f"{file}: holds a {kind}, not a state dict; save a dict of names and tensors")
    states = {".".join(keys): state for keys in _AVERAGED + _LIVE if (state := _state(root, keys))}
    averaged = [name for name in states if (name,) in _AVERAGED]
    live = [name for name in states if name not in averaged]
    if ema and not averaged:
        raise InputError(f"{file}: holds no moving average (ema_model, ema_state_dict); leave --ema out")
    names = (averaged if ema is None or ema else []) + live
    if not names:
        if not (state := _state({"": root}, ("",))):
            keys = ", ".join(shown(key, 80) for key in list(root)[:8])
            raise InputError(f"{file}: no state dict found; its keys are {keys or 'none'}")
        names, states = [""], {"": state}
    wrapper = names[0]
    entries, prefixes = _unprefixed(file, tree.entries(states[wrapper]))
    wrapper = ", ".join(filter(None, (wrapper, *prefixes)))
    return entries, wrapper, tuple(name for name in states if name != names[0])


def _unprefixed(file: File, entries: dict[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
    """Entries without the prefixes and infixes that trainers add to names, and these additions."""
    prefixes = []
    while entries and (prefix := next((p for p in _PREFIXES if all(_goes_on(n, p) for n in entries)), None)):
        prefixes.append(prefix)
        entries = {(name := key.removeprefix(prefix)): entry.renamed(name) for key, entry in entries.items()}
    plain = {key: _INFIXES.sub("", key) for key in entries}
    if infixes := {part for key in entries for part in _INFIXES.findall(key)}:
        if len(set(plain.values())) < len(plain):
            raise InputError(f"{file}: names are equal without {', '.join(sorted(infixes))}; save a plain state_dict()")
        entries = {name: entries[key].renamed(name) for key, name in plain.items()}
    return entries, prefixes + sorted(infixes)


def _goes_on(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _state(root: dict, keys: tuple[str, ...]) -> dict | None:
    """The dict of tensors under these keys, or None."""
    node: Any = root
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not any(isinstance(value, TensorRef) for value in node.values()):
        return None
    return {key: value for key, value in node.items() if isinstance(key, str)}


def _open_megatron(folder: Path, ema: bool | None) -> Checkpoint:
    grid = megatron.rank_files(folder)
    with ExitStack() as stack:
        opened = [[_open_file(stack, path, ema) for path in ranks] for ranks in grid]
        _check_wrappers(folder, [rank for ranks in opened for rank in ranks])
        sharding = registry.trained_in_shards([name for ranks in opened for name in ranks[0].entries]).sharding
        entries, replicas, stages = {}, {}, 0
        for ranks in opened:
            merged, copies = _merge(folder, sharding, [rank.entries for rank in ranks])
            if stages and entries.keys() & merged.keys():
                merged = {(new := sharding.shifted(name, stages)): entry.renamed(new) for name, entry in merged.items()}
            if twice := sorted(name for name in entries.keys() & merged.keys() if sharding.is_staged(name)):
                raise InputError(f"{shown(folder)}: tensor {shown(twice[0])} stands in two pipeline stages")
            for name in entries.keys() & merged.keys():  # for a tensor that stages share, take the last stage's
                copies[name] = replicas.get(name, [entries[name]]) + copies.get(name, [merged[name]])
            entries, replicas = entries | merged, replicas | copies
            stages = 1 + max((stage for name in entries if (stage := sharding.stage(name)) is not None), default=-1)
        container = f"MindSpeed-MM, TP {len(grid[0])}, PP {len(grid)}"
        first = opened[0][0]
        return Checkpoint(
            folder,
            container,
            entries,
            [path for ranks in grid for path in ranks],
            wrapper=first.wrapper,
            choices=first.choices,
            replicas=replicas,
            stack=stack,
        )


def _merge(
    folder: Path, sharding: Sharding, ranks: list[dict[str, Entry]]
) -> tuple[dict[str, Entry], dict[str, list[Entry]]]:
    """Merge the tensors of tensor-parallel ranks; also return the copies of tensors that every rank holds."""
    if len(ranks) == 1:
        return ranks[0], {}
    names = set().union(*ranks)
    if partial := sorted(name for name in names if any(name not in rank for rank in ranks)):
        raise InputError(f"{shown(folder)}: some ranks lack {', '.join(partial[:8])}")
    entries, replicas = {}, {}
    for name in ranks[-1]:
        parts, axis = [rank[name] for rank in ranks], sharding.axis(name)
        kinds = {(part.dtype, len(part.shape), *(n for i, n in enumerate(part.shape) if i != axis)) for part in parts}
        if len(kinds) > 1 or (axis is not None and (parts[0].shape == () or (axis and len(parts[0].shape) != 2))):
            shapes = ", ".join(f"{part.dtype} {part.shape}" for part in parts[:8])
            raise InputError(f"{shown(folder)}: the ranks' parts of {name!r} do not fit together: {shapes}")
        if axis is None:
            entries[name] = parts[-1]  # like upstream's merge
            replicas[name] = parts
        else:
            entries[name] = Joined(name, parts, axis)
    return entries, replicas
