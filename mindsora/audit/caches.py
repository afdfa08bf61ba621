"""What the user's cache holds, and removing it: everything in it is made again when it is needed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mindsora.errors import InputError, shown
from mindsora.files import cache_folder

KINDS = {"graphs": "compiled graphs of `generate`", "kernels": "compiled C++ operators"}


@dataclass(frozen=True)
class Cache:
    """One kind of files in the cache.

    Attributes:
        entries: graphs: sets, one for each model, size and setting; kernels: libraries.
        size: bytes.
    """

    kind: str
    folder: Path
    entries: int
    size: int

    def line(self) -> str:
        """The cache as a line of text."""
        return f"{self.kind:8} {self.entries:5} entries {self.size / 1e6:9.1f} MB  {shown(self.folder)}  {KINDS[self.kind]}"


def caches() -> list[Cache]:
    """Every kind, whether there are files of it or not."""
    return [_measured(kind, cache_folder() / kind) for kind in KINDS]


def clear(kinds: tuple[str, ...] = tuple(KINDS)) -> list[Cache]:
    """Remove caches, and return what they held. A program that runs now compiles again what it misses.

    Raises:
        InputError: a folder cannot be removed.
    """
    held = [cache for cache in caches() if cache.kind in kinds]
    for cache in held:
        try:
            shutil.rmtree(cache.folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"cannot remove {shown(cache.folder)}: {error.strerror or error}") from error
    return held


def _measured(kind: str, folder: Path) -> Cache:
    files = [file for file in folder.rglob("*") if file.is_file()]
    entries = len([file for file in files if file.suffix == ".so" or file.name == "checksums.json"])
    return Cache(kind, folder, entries, sum(file.stat().st_size for file in files))
