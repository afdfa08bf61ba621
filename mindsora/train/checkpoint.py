"""The states of a run: written beside the training, atomically, with a manifest and a checksum."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mindsora.errors import InputError, shown
from mindsora.files import arrays_sha256, whole_file
from mindsora.parallel.collectives import Group
from mindsora.parallel.launch import disagreeing

PATTERN = "state_*.safetensors"
UNCHECKED = "state.safetensors"  # the file of versions without checksums
TRANSIENT = "transient."  # prefix of parameters that are zero between steps: a state does not hold them
# Parameters whose values the manifest repeats, for readers: clipping state and counters.
_COUNTERS = ("clip_", "updates", "loss_scale")
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Identity:
    """What a state must share with the run that resumes it.

    Attributes:
        recipe: fingerprint of model, data, loss and seed.
        batch, accumulate, ranks: samples of a batch, batches of a step, and processes that share a step. Another number
            means other batches: `reshuffle` allows it.
        seed: of the order of the samples.
        epoch: samples in an epoch, for the manifest; None if unknown.
    """

    recipe: str
    batch: int = 1
    accumulate: int = 1
    ranks: int = 1
    seed: int = 0
    epoch: int | None = None

    @property
    def layout(self) -> dict[str, int]:
        return {"data.batch": self.batch, "optimizer.accumulate": self.accumulate, "ranks": self.ranks}


@dataclass(frozen=True)
class Position:
    """Steps done and samples consumed."""

    step: int = 0
    samples: int = 0


def check_equal(parameters: Iterable[Parameter], start: Position, world: Group) -> None:
    """Raise InputError unless every rank starts behind the same step with the same values."""
    if world.size == 1:
        return
    digest = hashlib.sha256(f"{start}".encode())
    for parameter in parameters:
        digest.update(parameter.name.encode())
        digest.update(np.ascontiguousarray(parameter.asnumpy()).reshape(-1).view(np.uint8))
    own = np.frombuffer(digest.digest(), np.uint8)
    if differing := disagreeing(own, world):
        raise InputError(
            f"rank {differing[0]} starts from other weights, or from another state, than rank 0: give every host the same "
            "versions of this package, the same run.init and the same run.out"
        )


class States:
    """The states in a run's folder. A context: leaving it waits for the state that is being written.

    Args:
        out: the folder.
        identity: of the run.
        keep: number of newest states to keep.
        keep_every: keep the states of multiples of so many steps too; 0 for none.
        writes: whether this process writes them; of several ranks one does.
    """

    def __init__(self, out: Path, identity: Identity, keep: int = 2, keep_every: int = 0, writes: bool = True):
        self.out, self.identity, self.writes = out, identity, writes
        self._keep, self._keep_every = keep, keep_every
        self.newest: Path | None = None  # the whole state that was last written or read
        self._damaged: list[Path] = []
        self._writer = ThreadPoolExecutor(1, "state")
        self._writing: Future | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._writer.shutdown()
        if kind is None:
            self.wait()

    def save(self, parameters: Iterable[Parameter], position: Position) -> None:
        """Write weights, moments, averages, counters and clipping state, while the training goes on.

        The values are copied before this returns, and the file is written after it, as soon as the last one is complete.
        Older states beyond `keep` and damaged ones are removed then. Every rank must call it: a tensor of which each
        has a part is gathered here, one after the other, so that a state is the same for every number of ranks.

        Raises:
            InputError: the state before this one cannot be written.
        """
        self.wait()
        arrays = {}
        for parameter in parameters:
            if not parameter.name.startswith(TRANSIENT):
                values = np.array(parameter.asnumpy())
                if self.writes:
                    arrays[parameter.name] = values
        if self.writes:
            self._writing = self._writer.submit(self._write, arrays, position)

    def wait(self) -> None:
        """Wait for the state that is being written. InputError: it cannot be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, arrays: dict[str, np.ndarray], position: Position) -> None:
        path = self.out / f"state_{position.step:08d}.safetensors"
        manifest = self._manifest(arrays, position)
        manifest["sha256"] = arrays_sha256(arrays, manifest)
        try:
            with whole_file(path) as temporary:
                _write(arrays, temporary, manifest)
        except InputError as error:
            last = f"the last state is {self.newest.name}" if self.newest else "there is no state yet"
            raise InputError(f"{error}; {last}: make room, then give the same command again") from error
        self.newest = path
        self._damaged = [old for old in self._damaged if old != path]
        self._remove_old()

    def _manifest(self, arrays: dict[str, np.ndarray], position: Position) -> dict:
        order = {"seed": self.identity.seed, "samples": position.samples}
        if self.identity.epoch:
            order["epoch"], order["position"] = divmod(position.samples, self.identity.epoch)
        counters = {name: array.item() for name, array in arrays.items() if name.startswith(_COUNTERS)}
        layout = {"layout": self.identity.layout, "order": order, "counters": counters}
        return {"recipe": self.identity.recipe, "step": position.step} | layout

    def _remove_old(self) -> None:
        whole = [path for path in sorted(self.out.glob(PATTERN)) if path not in self._damaged]
        for old in self._damaged + whole[: -self._keep]:
            if old in self._damaged or not self._keep_every or _step_of(old) % self._keep_every:
                old.unlink(missing_ok=True)
        self._damaged = []

    def resume(self, parameters: Iterable[Parameter], steps: int, reshuffle: bool = False) -> Position:
        """Restore the newest whole state, bit for bit. Returns its position, or the beginning if there is no state.

        Args:
            parameters: of the training step.
            steps: of the whole run.
            reshuffle: go on with another batch, accumulation or number of ranks, from the sample that is next.

        Raises:
            InputError: every state is damaged; or the newest whole one comes from another recipe or another layout of
                batches, lies beyond `steps`, or has other parameters than this step. In these cases no parameter changes.
        """
        own = {p.name: p for p in parameters if not p.name.startswith(TRANSIENT)}
        damaged = []
        for path in sorted(self.out.glob(PATTERN), reverse=True):
            try:
                manifest, arrays = _read(path)
            except _Damaged as error:
                damaged.append(f"{path.name} is damaged ({error})")
                self._damaged.append(path)
                continue
            self._check(path, manifest, arrays, own, steps)
            self._check_layout(path, manifest, reshuffle)
            if damaged:
                print(f"{'; '.join(damaged)}; {path.name} is whole and goes on", flush=True)
            for name, parameter in own.items():
                parameter.set_data(Tensor(arrays[name]))
            self.newest = path
            return Position(manifest["step"], manifest["order"]["samples"])
        if damaged:
            raise InputError(f"run.out = {str(self.out)!r}: {'; '.join(damaged)}; remove them to start afresh")
        if (self.out / UNCHECKED).exists():
            raise InputError(
                f"run.out = {str(self.out)!r}: {UNCHECKED} has no checksum, an earlier version wrote it: "
                "train into another folder, or remove it to start afresh"
            )
        return Position()

    def _check_layout(self, path: Path, manifest: dict, reshuffle: bool) -> None:
        before, now = manifest["layout"], self.identity.layout
        changed = [key for key in now if before[key] != now[key]]
        if changed and not reshuffle:
            said = ", ".join(f"{key} = {before[key]} (now {now[key]})" for key in changed)
            raise InputError(
                f"state {str(path)!r} was written with {said}: restore the old value to go on with the same batches, or "
                f"add --reshuffle to go on after {manifest['order']['samples']} samples with other batches"
            )

    def _check(self, path: Path, manifest: dict, arrays: dict, own: dict[str, Parameter], steps: int) -> None:
        if manifest["recipe"] != self.identity.recipe:
            raise InputError(
                f"state {str(path)!r} was written by another recipe (model, data, loss or seed differ): "
                "train into another folder, or remove it to start afresh"
            )
        if manifest["step"] > steps:
            raise InputError(
                f"state {str(path)!r} is of step {manifest['step']}, beyond run.steps = {steps}: "
                f"give run.steps={manifest['step']} or more, or another run.out"
            )
        expected = {name: p.asnumpy() for name, p in own.items()}
        both = expected.keys() & arrays.keys()
        faults = {
            "missing": expected.keys() - arrays.keys(),
            "unexpected": arrays.keys() - expected.keys(),
            "wrong shape": {name for name in both if arrays[name].shape != expected[name].shape},
            "wrong type": {name for name in both if arrays[name].dtype != expected[name].dtype},
        }
        if any(faults.values()):
            listed = "; ".join(f"{fault} {_list(names)}" for fault, names in faults.items() if names)
            raise InputError(f"state {str(path)!r} does not fit this model: {listed}; remove it to start afresh")


def _list(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown(name) for name in sorted(names)[:_SHOWN]) + more


def _step_of(path: Path) -> int:
    """The step in a state's name; -1 for another name."""
    digits = path.stem.removeprefix("state_")
    return int(digits) if digits.isdecimal() else -1


def _whole(section, keys: Iterable[str]) -> bool:
    """Whether a section of a manifest has these keys with whole numbers."""
    return isinstance(section, dict) and all(type(section.get(key)) is int and section[key] >= 0 for key in keys)


class _Damaged(Exception):
    """A file that is not a whole state."""


def _write(arrays: dict[str, np.ndarray], path: Path, manifest: dict) -> None:
    try:
        save_file(arrays, path, metadata={"manifest": json.dumps(manifest)})
    except SafetensorError as error:  # safetensors raises this instead of OSError
        raise OSError(str(error)) from error


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Manifest and arrays of a state. Raises _Damaged."""
    try:
        with safe_open(path, framework="np") as file:
            manifest = json.loads((file.metadata() or {}).get("manifest", ""))
            arrays = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise _Damaged(f"cannot be read: {' '.join(str(error).split())[:200]}") from error
    step = manifest.get("step") if isinstance(manifest, dict) else None
    if type(step) is not int or step < 1:
        raise _Damaged("its manifest has no step")
    if not isinstance(manifest.get("recipe"), str):
        raise _Damaged("its manifest has no recipe")
    if not _whole(manifest.get("layout"), Identity("").layout) or not _whole(manifest.get("order"), ("samples",)):
        raise _Damaged("its manifest has no layout of batches, or no order of samples")
    if manifest.pop("sha256", None) != arrays_sha256(arrays, manifest):
        raise _Damaged("its checksum differs")
    return manifest, arrays
