"""Compiled graphs on disk, for the next process that needs the same ones.

MindSpore 2.10 has such a cache (MS_COMPILER_CACHE_ENABLE), but not one to use as it is. It knows a graph by its number
in the order in which a process compiles, and compares nothing but the script that was started: after another clip size,
another model or other options it ran the wrong graph and said nothing. So here each set of graphs has a folder of its
own, named by the checksum of everything that decides which graphs those are and in which order they come.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.files import file_sha256, remove, replacing, temporary_name

_ENABLE, _FORCE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_DEV_FORCE_USE_COMPILE_CACHE", "MS_COMPILER_CACHE_PATH"
CHECKSUMS = "checksums.json"  # in every folder of graphs: file -> sha256
RESERVE = 2**20  # bytes that must be left on a disk for its files to count as whole
_used = False  # in this process


def check_folder(folder: str | None) -> None:
    """Make the folder, if one is given. Raises InputError where nothing can be written."""
    try:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"cannot keep compiled graphs in {folder!r}: {error.strerror}") from error


@contextmanager
def compile_cache(folder: str | None, what) -> Iterator[None]:
    """Inside, graphs come from the folder or, the first time, are written to it: all of them or none.

    Once in a process, around every graph it compiles: MindSpore looks up its settings when it compiles the first one,
    so that a second use keeps nothing. Whatever its variables say when the process starts has no effect.

    Args:
        folder: None keeps nothing.
        what: all that decides which graphs are compiled inside and in which order; JSON can hold it.
    """
    global _used
    if folder is None or _used:
        yield
        return
    _used = True
    check_folder(folder)
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
    kept = Path(folder, key).absolute()
    known = kept.is_dir() and _is_whole(kept)
    if kept.exists() and not known:
        warnings.warn(f"the compiled graphs in {str(kept)!r} are damaged; they are compiled again", stacklevel=3)
        remove(kept)
    made = kept if known else temporary_name(kept)
    made.mkdir(exist_ok=known)
    # Forced where there is something: the folder's name has told more than MindSpore's own comparison would.
    os.environ |= {_ENABLE: "1", _PATH: str(made), _FORCE: "1" if known else "0"}
    try:
        yield
        if not known:
            _keep(made, kept)
    finally:
        os.environ[_ENABLE] = "0"
        os.environ.pop(_FORCE, None)
        if not known:
            shutil.rmtree(made, ignore_errors=True)


def _keep(made: Path, kept: Path) -> None:
    """Give whole graphs their name. MindSpore goes on without a word where the disk is full, and leaves cut files."""
    files = _files(made)
    full = shutil.disk_usage(made).free < RESERVE or any(not file.stat().st_size for file in files)
    if full or not files:
        warnings.warn(f"no compiled graphs are kept in {str(kept.parent)!r}: its disk is full", stacklevel=4)
        return
    with suppress(OSError):  # another process was quicker
        with replacing(made / CHECKSUMS) as out:
            out.write(json.dumps({str(file.relative_to(made)): file_sha256(file) for file in files}).encode())
        made.rename(kept)


def _is_whole(kept: Path) -> bool:
    """Whether the folder holds the files that were kept, and no others."""
    try:
        checksums = read_json(kept / CHECKSUMS)
        return checksums == {str(file.relative_to(kept)): file_sha256(file) for file in _files(kept)}
    except (InputError, OSError):
        return False


def _files(folder: Path) -> list[Path]:
    """What MindSpore wrote that a later process reads; locks and the like come and go."""
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS and file.suffix != ".lock"
    )
