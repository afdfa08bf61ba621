"""Compile CPU operators once, with the system's C++ compiler, into the user's cache.

If several processes need an operator at the same time, one compiles and the others wait. A library gets its final name
in the cache only when it is complete and loads, with its checksum in a file beside it. A library that does not match its
checksum is compiled again. The next compile removes the files of an interrupted one.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mindsora.errors import InputError
from mindsora.files import file_sha256, replacing

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-pthread", "-fPIC", "-shared")
HEADERS = sorted(Path(__file__).parent.glob("*.h"))  # any source may include them
PATIENCE = 600  # seconds a compiler may take; ours take about ten


class Library(NamedTuple):
    """A compiled operator, or the reason why it is missing."""

    path: Path | None
    reason: str


@cache
def library(source: Path) -> Library:
    """Return the shared library of `source`; compile it if the cache has none for this source, flags and CPU.

    If it cannot be compiled, the operator runs in its plain form, and a message gives each reason once.
    """
    try:
        compiler = compiler_command()
    except InputError as error:
        return _plain(str(error))
    if not compiler:
        return _plain("no C++ compiler was found; install g++ or clang++, or name one in CXX")
    texts = [path.read_bytes() for path in (source, *HEADERS)]
    key = hashlib.sha256(b"\0".join(texts) + repr((FLAGS, compiler, _cpu())).encode()).hexdigest()[:16]
    problems = []
    for folder in folders():
        target = folder / f"{source.stem}-{key}.so"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(folder)
            if not _is_whole(target):
                with lock(folder / f"{source.stem}.lock"):
                    if not _is_whole(target):  # no other process compiled it while this one waited
                        _compile(compiler, source, target)
            return Library(target, f"compiled: {target}")
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
        except _CompilerError as error:
            return _plain(f"{source.stem} could not be compiled: {error}")
    return _plain(f"compiled operators cannot be kept: {'; '.join(problems)}; name a folder in XDG_CACHE_HOME")


class _CompilerError(Exception):
    """The message of the compiler, or of the failure to start it or to load its result."""


@cache
def _plain(reason: str) -> Library:
    # Cached, so that a reason that several operators share is printed once.
    warnings.warn(f"{reason}. Slower plain forms run instead; results are the same.", stacklevel=3)
    return Library(None, reason)


def compiler_command() -> tuple[str, ...]:
    """The command of the C++ compiler, empty if there is none. CXX may hold options or a launcher, such as `ccache g++`.

    Raises:
        InputError: CXX cannot be parsed as a command.
    """
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise InputError(
            f"CXX={os.environ['CXX']!r} is no command ({str(error).lower()}); unset it, or name a "
            "compiler such as `g++` or `ccache g++`"
        ) from error
    default = shutil.which("g++") or shutil.which("clang++")
    return tuple(named) or ((default,) if default else ())


def _cpu() -> str:
    """The processor's name and features, which -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(fields)}))


def folders() -> Iterator[Path]:
    """Candidate folders for libraries: the user's cache, then a private folder under the temporary folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache"
    yield Path(root) / "mindsora" / "kernels"
    yield Path(tempfile.gettempdir()) / f"mindsora-kernels-{os.getuid()}"


def writable_folder() -> Path:
    """The first of `folders` that this user can write to.

    Raises:
        InputError: the user can write to none of them.
    """
    for folder in folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(folder)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise InputError("compiled operators cannot be kept; name a folder in XDG_CACHE_HOME")


def _check_owner(folder: Path) -> None:
    """Raise PermissionError if another user owns the folder: anybody can create one under /tmp and put code there."""
    if folder.stat().st_uid not in (0, os.getuid()):
        raise PermissionError(0, "belongs to another user")


def _is_whole(path: Path) -> bool:
    """Whether a library in the cache matches the checksum file beside it, and loads.

    The checksum comes first: a damaged library may load, then crash at the first call or compute wrong results.
    """
    try:
        return _checksum_of(path).read_text() == file_sha256(path) and _loads(path)
    except (OSError, ValueError):
        return False


def _checksum_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _loads(path: Path) -> bool:
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process in at a time. The system releases the lock of a process that dies."""
    with open(path, "w") as file:
        with suppress(OSError):  # a file system without locks: all compile, and each renames a whole library into place
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(compiler: tuple[str, ...], source: Path, target: Path) -> None:
    for left in target.parent.glob(f"{source.stem}.*.partial"):  # files of an interrupted compile
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{source.stem}.", suffix=".partial") as folder:
        built = Path(folder) / target.name
        for native in (True, False):  # clang for aarch64 before 16 has no -march=native
            flags = [flag for flag in FLAGS if native or flag != "-march=native"]
            command = [*compiler, *flags, str(source), "-o", str(built)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise _CompilerError(error) from error
            if done.returncode == 0:
                break
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[:2000] or f"exit status {done.returncode}"
            raise _CompilerError(f"{shlex.join(compiler)}: {said}")
        if not _loads(built):
            raise _CompilerError(f"{shlex.join(compiler)} reported success, but made no library that loads")
        checksum = file_sha256(built)
        with replacing(target) as out:  # the contents reach the disk before the name does
            out.write(built.read_bytes())
        with replacing(_checksum_of(target)) as out:
            out.write(checksum.encode())
