"""Checksums that ship with a model folder: `sha256.json` names every other file of it.

`python -m mindsora.shipped FOLDER...` writes them, after a training has changed a model in the box.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.files import cache_folder, file_sha256, replacing, write_json

CHECKSUMS = "sha256.json"


def check_files(folder: Path) -> None:
    """Raise InputError for a folder with a `sha256.json` of which a file is missing or has other bytes.

    Each file is read once for every size and date that it has had; the user's cache folder keeps what came out.
    """
    for path in damaged(folder):
        raise InputError(
            f"{shown(path)} is missing or damaged: its sha256 is not the one in {CHECKSUMS} of its model; "
            f"install or fetch it again, or remove {CHECKSUMS} where you have changed the model yourself"
        )


def damaged(folder: Path) -> Iterator[Path]:
    """The files of a folder that are not as its `sha256.json` says; none where there is no such file."""
    if not (folder / CHECKSUMS).is_file():
        return
    known, now = _known(), {}
    for name, checksum in read_json(folder / CHECKSUMS).items():
        path = folder / name
        if not os.path.isfile(path):  # false also for names that no file can have, where Path.is_file raises
            yield path
            continue
        key, stamp = str(path.resolve()), [path.stat().st_size, path.stat().st_mtime_ns]
        now[key] = known[key] if known.get(key, [])[:2] == stamp else [*stamp, file_sha256(path)]
        if now[key][2] != checksum:
            yield path
    if any(known.get(key) != entry for key, entry in now.items()):
        _keep(known | now)


def write_checksums(folder: Path) -> None:
    """Write `sha256.json` of a model folder as it is now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {path.relative_to(folder).as_posix(): file_sha256(path) for path in files})


def _cache() -> Path:
    return cache_folder() / "checked_files.json"


def _known() -> dict[str, list]:
    """Path -> size, date and checksum, as of the last check."""
    with suppress(InputError):
        return {key: value for key, value in read_json(_cache()).items() if _is_entry(value)}
    return {}


def _is_entry(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3


def _keep(known: dict[str, list]) -> None:
    with suppress(OSError):  # a home that cannot be written: the next run reads the files again
        _cache().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(_cache()) as out:
            out.write(json.dumps(known).encode())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_checksums(Path(argument))
