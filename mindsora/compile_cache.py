"""A disk cache of compiled graphs for later processes that need the same graphs.

MindSpore 2.10 has such a cache (MS_COMPILER_CACHE_ENABLE), but it is not safe on its own. It identifies a graph by its
number in the order of compilation and compares only the script of the process: after another clip size, model or option
it ran the wrong graph without a message. This module therefore gives each set of graphs a folder of its own, named by
the checksum of everything that determines the graphs and their order.
"""

import ast
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.files import cache_folder, file_sha256, remove, replacing, temporary_name

_ENABLE, _FORCE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_DEV_FORCE_USE_COMPILE_CACHE", "MS_COMPILER_CACHE_PATH"
CHECKSUMS = "checksums.json"  # in every folder of graphs: file -> sha256
RESERVE = 2**20  # free bytes that a disk must have left for its files to count as whole
LIMIT = 2**30  # bytes of all graphs in a folder; a released model's take tens of MB for each size of clip
_used = False  # in this process


def chosen_folder(name: str | None) -> str | None:
    """The folder of a cache that a user has named: "none" is no cache, None the folder in the user's own cache.

    Raises:
        InputError: the named folder is not writable, or the program is no script. Without a name, nothing is kept then.
    """
    if name == "none":
        return None
    folder = str(cache_folder() / "graphs") if name is None else name
    try:
        check_folder(folder)
        if not _is_script(sys.argv[0]):
            raise InputError(f"--compile-cache {folder}: MindSpore keeps graphs of a script alone; run `mindsora`")
    except InputError:
        if name is not None:
            raise
        return None
    return folder


def _is_script(program: str) -> bool:
    """Whether a program is a file of Python: MindSpore parses it when it keeps graphs. `python -c` has none."""
    try:
        ast.parse(Path(program).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def check_folder(folder: str | None) -> None:
    """Create the folder unless it is None. Raises InputError if the folder is not writable."""
    try:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"cannot keep compiled graphs in {folder!r}: {error.strerror}") from error


@contextmanager
def compile_cache(folder: str | None, what) -> Iterator[None]:
    """Read the graphs compiled inside the context from the folder or, the first time, write them to it, all or none.

    Use it once per process, around every graph that the process compiles: MindSpore reads its settings when it compiles
    the first graph, so a second use keeps nothing. The values of its variables at process start have no effect.

    Args:
        folder: of the cache; None keeps nothing.
        what: everything that determines the graphs and their order, as JSON values.
    """
    global _used
    if folder is None or _used:
        yield
        return
    _used = True
    check_folder(folder)
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
    target = Path(folder, key).absolute()
    known = target.is_dir() and _is_whole(target)
    if target.exists() and not known:
        warnings.warn(f"the compiled graphs in {str(target)!r} are damaged; they are compiled again", stacklevel=3)
        remove(target)
    graphs = target if known else temporary_name(target)
    graphs.mkdir(exist_ok=known)
    # Force the use of existing graphs: the folder's name compares more than MindSpore does.
    os.environ |= {_ENABLE: "1", _PATH: str(graphs), _FORCE: "1" if known else "0"}
    try:
        yield
        if not known:
            _keep(graphs, target)
        with suppress(OSError):  # another process removes graphs at the same time
            os.utime(target)  # `_trim` removes those that were not used for the longest time
            _trim(target.parent, keep=target)
    finally:
        os.environ[_ENABLE] = "0"
        os.environ.pop(_FORCE, None)
        if not known:
            shutil.rmtree(graphs, ignore_errors=True)


def _keep(graphs: Path, target: Path) -> None:
    """Rename the folder if its graphs are whole. On a full disk MindSpore continues silently and leaves cut files."""
    files = _files(graphs)
    if not files:  # nothing was compiled, or the process had compiled a graph before
        return
    if shutil.disk_usage(graphs).free < RESERVE or any(not file.stat().st_size for file in files):
        warnings.warn(f"no compiled graphs are kept in {str(target.parent)!r}: its disk is full", stacklevel=4)
        return
    with suppress(OSError):  # another process was quicker
        with replacing(graphs / CHECKSUMS) as out:
            out.write(json.dumps({str(file.relative_to(graphs)): file_sha256(file) for file in files}).encode())
        graphs.rename(target)


def _trim(folder: Path, keep: Path) -> None:
    """Remove sets of graphs until the folder takes at most LIMIT bytes, the longest unused first."""
    sets = sorted(
        (path for path in folder.iterdir() if (path / CHECKSUMS).is_file()), key=lambda path: path.stat().st_mtime
    )
    sizes = {path: sum(file.stat().st_size for file in _files(path)) for path in sets}
    total = sum(sizes.values())
    for path in sets:
        if total > LIMIT and path != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def _is_whole(target: Path) -> bool:
    """Whether the folder holds exactly the files in its list of checksums."""
    try:
        checksums = read_json(target / CHECKSUMS)
        return checksums == {str(file.relative_to(target)): file_sha256(file) for file in _files(target)}
    except (InputError, OSError):
        return False


def _files(folder: Path) -> list[Path]:
    """The files of MindSpore that a later process reads, without locks and other transient files."""
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS and file.suffix != ".lock"
    )
