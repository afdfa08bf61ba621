"""The state of a run, written atomically with a checksum. The run keeps the newest state and the one before."""

import hashlib
import json
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mindsora.errors import InputError, shown
from mindsora.files import whole_file

PATTERN = "state_*.safetensors"
UNCHECKED = "state.safetensors"  # the file of versions without checksums
_SHOWN = 5  # names in a message


class States:
    """The states in a run's folder.

    Args:
        out: the folder.
        identity: the recipe's fingerprint; a state with another one is refused.
    """

    def __init__(self, out: Path, identity: str):
        self.out, self.identity = out, identity
        self.newest: Path | None = None  # the whole state that was last written or read

    def save(self, step: nn.Cell, done: int) -> None:
        """Write every parameter of the training step: weights, moments, averages, counters and clipping state.

        It keeps the previous state and removes older and damaged ones.

        Args:
            done: number of steps done.

        Raises:
            InputError: the file cannot be written.
        """
        path = self.out / f"state_{done:08d}.safetensors"
        arrays = {p.name: p.asnumpy() for p in step.get_parameters()}
        manifest = {"recipe": self.identity, "step": done}
        manifest["sha256"] = _checksum(arrays, manifest)
        try:
            with whole_file(path) as temporary:
                _write(arrays, temporary, manifest)
        except InputError as error:
            last = f"the last state is {self.newest.name}" if self.newest else "there is no state yet"
            raise InputError(f"{error}; {last}: make room, then give the same command again") from error
        for old in self.out.glob(PATTERN):
            if old not in (path, self.newest):
                old.unlink()
        self.newest = path

    def resume(self, step: nn.Cell, steps: int) -> int:
        """Restore the newest whole state, bit for bit. Returns the number of its steps, or 0 if there is no state.

        Args:
            steps: of the whole run.

        Raises:
            InputError: every state is damaged; or the newest whole one comes from another recipe, lies beyond `steps`,
                or has other parameters than this step. In these cases no parameter changes.
        """
        damaged = []
        for path in sorted(self.out.glob(PATTERN), reverse=True):
            try:
                manifest, arrays = _read(path)
            except _Damaged as error:
                damaged.append(f"{path.name} is damaged ({error})")
                continue
            self._check(path, manifest, arrays, step, steps)
            if damaged:
                print(f"{'; '.join(damaged)}; {path.name} is whole and goes on", flush=True)
            for parameter in step.get_parameters():
                parameter.set_data(Tensor(arrays[parameter.name]))
            self.newest = path
            return manifest["step"]
        if damaged:
            raise InputError(f"run.out = {str(self.out)!r}: {'; '.join(damaged)}; remove them to start afresh")
        if (self.out / UNCHECKED).exists():
            raise InputError(
                f"run.out = {str(self.out)!r}: {UNCHECKED} has no checksum, an earlier version wrote it: "
                "train into another folder, or remove it to start afresh"
            )
        return 0

    def _check(self, path: Path, manifest: dict, arrays: dict, step: nn.Cell, steps: int) -> None:
        if manifest["recipe"] != self.identity:
            raise InputError(
                f"state {str(path)!r} was written by another recipe (model, data, loss or seed differ): "
                "train into another folder, or remove it to start afresh"
            )
        if manifest["step"] > steps:
            raise InputError(
                f"state {str(path)!r} is of step {manifest['step']}, beyond run.steps = {steps}: "
                f"give run.steps={manifest['step']} or more, or another run.out"
            )
        expected = {p.name: p.asnumpy() for p in step.get_parameters()}
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
    if manifest.pop("sha256", None) != _checksum(arrays, manifest):
        raise _Damaged("its checksum differs")
    return manifest, arrays


def _checksum(arrays: dict[str, np.ndarray], manifest: dict) -> str:
    """SHA-256 of the manifest and of every array's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, str(array.dtype), arrays[name].shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
