"""Compile the AscendC kernels against the host twin and run them: unmodified sources, or with a patch applied.

Objects are kept in the user's cache under the hash of everything they are made from, so a second run compiles nothing.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

HOST = Path(__file__).parent
KERNELS = HOST.parents[1] / "mindsora" / "kernels" / "ascend"
MACHINE = (HOST / "machine.cpp", HOST / "memory.cpp")
OPERATORS = (
    "skiparse_permute",
    "ada_norm_modulate",
    "qk_norm_rope",
    "skiparse_attention",
    "skiparse_attention_grad",
)
WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror")
FLAGS = ("-std=c++17", "-O0", *WARNINGS, f"-I{HOST}", f"-I{KERNELS / 'op_kernel'}")
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


class TwinError(RuntimeError):
    """The twin stopped a kernel; the message is the twin's."""


def _hash(*parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()[:20]


def _headers() -> bytes:
    folders = (HOST, KERNELS / "op_kernel", KERNELS / "op_host")
    return b"".join(path.read_bytes() for folder in folders for path in sorted(folder.glob("*.h")))


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    assert compiler, "the host twin needs g++ or clang++: a twin that does not run is a failure, not a skip"
    return compiler


def cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindsora" / "ascendc_host"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _made(name: str, key: str, *command: str) -> Path:
    """The file a command makes (its path is appended as `-o`), unless it is there already."""
    target = cache_folder() / f"{name}-{key}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # renamed when whole: tests may run in parallel
            built = Path(folder) / name
            done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            built.replace(target)
    return target


def _object(source: Path, text: bytes, *flags: str) -> Path:
    flags = (*FLAGS, *flags)
    key = _hash(text, _headers(), flags, _compiler())
    if text == source.read_bytes():
        return _made(source.stem, key, _compiler(), *flags, "-c", str(source))
    with tempfile.TemporaryDirectory() as folder:
        patched = Path(folder) / source.name
        patched.write_bytes(text)
        return _made(source.stem, key, _compiler(), *flags, "-c", str(patched))


def program(operator: str, patched: dict[str, bytes] | None = None) -> Path:
    """The program that runs an operator; `patched` replaces files of op_kernel by name."""
    if not patched:
        return _shipped(operator)
    with tempfile.TemporaryDirectory() as folder:  # patched headers are found before the shipped ones
        for path in (KERNELS / "op_kernel").iterdir():
            (Path(folder) / path.name).write_bytes(patched.get(path.name, path.read_bytes()))
        source = Path(folder) / f"{operator}.cpp"
        key = _hash(sorted(patched.items()), operator, _headers(), FLAGS, _compiler())
        flags = [flag for flag in FLAGS if "op_kernel" not in flag]
        kernel = _made(operator, key, _compiler(), *flags, f"-I{folder}", "-c", str(source))
    return _link(operator, kernel)


@cache
def _shipped(operator: str) -> Path:
    source = KERNELS / "op_kernel" / f"{operator}.cpp"
    return _link(operator, _object(source, source.read_bytes()))


def _link(operator: str, kernel: Path) -> Path:
    parts = [kernel]
    for source, flags in ((HOST / f"run_{operator}.cpp", ()), *((source, ("-O2",)) for source in MACHINE)):
        parts.append(_object(source, source.read_bytes(), *flags))
    return _made(f"run_{operator}", _hash(*map(str, parts)), _compiler(), *map(str, parts))


def compiles(source: Path, *flags: str) -> Path:
    """The object of a source; an AssertionError with the compiler's message if it does not compile."""
    return _object(source, source.read_bytes(), *flags)


def tool(name: str, sources, *flags: str) -> Path:
    """A program made of other sources."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = list(pool.map(lambda source: str(_object(source, source.read_bytes(), *flags)), sources))
    return _made(name, _hash(*parts), _compiler(), *parts)


@cache
def build_all() -> None:
    """Compile every operator."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(_shipped, OPERATORS))


def run(operator: str, inputs: dict[str, np.ndarray], outputs: dict[str, str], patched=None, **numbers):
    """Run an operator on the twin.

    Args:
        inputs: tensors by the driver's names.
        outputs: dtype of each output by name; they come back flat.
        patched: as for `program`.
        numbers: the driver's other arguments.

    Returns:
        dict of outputs, and the counters of the run.

    Raises:
        TwinError: a detector of the twin, or the tiling function, stopped the run.
    """
    path = program(operator, patched)
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"{name}={value:d}" if isinstance(value, (int, bool, np.integer)) else f"{name}={value!r}"
            for name, value in numbers.items()
        ]
        for name, array in inputs.items():
            file = Path(folder) / name
            np.ascontiguousarray(array).tofile(file)
            words.append(f"{name}={file}")
        words += [f"{name}={Path(folder) / name}" for name in outputs]
        done = subprocess.run([str(path), *words], capture_output=True, text=True, timeout=600)
        if done.returncode in (3, 4):
            raise TwinError(done.stderr.strip())
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        results = {name: np.fromfile(Path(folder) / name, DTYPES.get(dtype, dtype)) for name, dtype in outputs.items()}
    return results, json.loads(done.stdout)
