"""Files and folders that are complete or absent: each is written under its own temporary name, then renamed."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from mindsora.errors import InputError, shown

SUFFIX = ".partial"
STALE_SECONDS = 24 * 3600  # a temporary file that nobody has written to for this long belongs to a killed run
_TEMPORARY = re.compile(rf"\.[0-9a-f]{{8}}{re.escape(SUFFIX)}$")


def cache_folder() -> Path:
    """The user's cache folder of this package, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mindsora"


def file_sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def arrays_sha256(arrays: Mapping[str, Any], about: dict) -> str:
    """Hexadecimal SHA-256 of a JSON object and of the name, type, shape and bytes of every NumPy array."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.reshape(-1).view("uint8"))  # bfloat16 has no buffer of its own
    return digest.hexdigest()


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of an empty temporary file beside `path`; rename it to `path` at the end, or remove it on error.

    Several processes can write one `path` at once: each has a temporary file of its own, and the last rename wins.
    Where `path` is a link, the link stays and the file that it leads to is replaced.

    Raises:
        InputError: the file cannot be written (full disk, no permission, and so on).
    """
    try:
        with _renamed(Path(path)) as temporary:
            yield temporary
    except OSError as error:  # PyAV's errors of this kind are OSErrors too
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write a JSON object. InputError: the file cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Like `whole_file`, but yield the open file, and raise the OSError itself."""
    with _renamed(Path(path)) as temporary, open(temporary, "wb") as out:
        yield out


@contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder to fill; rename it to `path` at the end, or remove it on error.

    Raises:
        OSError: the folder cannot be made, or `path` holds files by then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()  # FileExistsError for anything of that name, links included
    try:
        yield temporary
        os.replace(temporary, path)  # an empty folder of that name may be there
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """Yield a new folder for the file `path` and those that describe it; move them beside each other at the end.

    Of several processes with one `path`, the last one to finish leaves all of its files. After an error none is moved.

    Raises:
        InputError: the files cannot be written.
    """
    temporary = temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
        with _lock(path.parent):
            # `path` last: a process that dies in between leaves a description whose checksum is not the old file's.
            for file in sorted(temporary.iterdir(), key=lambda file: file.name == path.name):
                _move(file, path.with_name(file.name))
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {shown(path)}: {error.strerror or error}") from error
    except InputError as error:  # from a writer inside, whose message names the temporary folder
        raise InputError(str(error).replace(str(temporary / path.name), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(file: Path, path: Path) -> None:
    """Rename a file. Where `path` is a link, copy it over the file that the link leads to, perhaps on another disk."""
    if path.is_symlink():
        with _renamed(path) as temporary:
            shutil.copyfile(file, temporary)
    else:
        os.replace(file, path)


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep every other process that claims `path` from writing it. The system frees the name when the process ends.

    Raises:
        InputError: another process is writing it, or its folder cannot be written.
    """
    lock = path.with_name(f"{path.name[:50]}.lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise InputError(f"cannot write {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    with os.fdopen(fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another process is writing {shown(path)}; wait for it, or name another") from error
        except OSError:  # a file system without locks: the last of two writers wins, both files whole
            pass
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time. The system releases the lock of a process that dies."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks, or a folder that may be written, not read
            fd = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`. On exit its bytes reach the disk before its name does."""
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    temporary = temporary_name(path)
    # O_EXCL also refuses a link of that name. 0o666 less the umask: the rights of a file made by open().
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """An unused name beside `path`."""
    sweep(path.parent.absolute())
    # Cut at 50 characters: the token and the suffix also need room in the 255 bytes of a file name.
    return path.with_name(f"{path.name[:50]}.{secrets.token_hex(4)}{SUFFIX}")


@cache  # once per process: a folder of latents has many thousands of files, each written through here
def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that killed runs left in a folder STALE_SECONDS ago or earlier."""
    oldest = time.time() - STALE_SECONDS
    with contextlib.suppress(OSError):  # a folder may be writable and not readable; another process may be first
        for left in folder.iterdir():
            if _TEMPORARY.search(left.name) and left.lstat().st_mtime < oldest:
                remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it points to) or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename durable: the folder's own entry is written to disk."""
    with contextlib.suppress(OSError):  # some network file systems cannot; the file itself is on disk by then
        _sync(folder)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
