"""Files and folders that are whole or not there: written under a temporary name, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; on leaving it is on disk and has its name. After an error nothing of it is left."""
    temporary = path.with_name(path.name + SUFFIX)
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill; on leaving it has its name. After an error nothing of it is left."""
    temporary = path.with_name(path.name + SUFFIX)
    shutil.rmtree(temporary, ignore_errors=True)  # of an interrupted run
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)  # an empty folder of that name may be there
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename last: the folder's own entry goes to disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
