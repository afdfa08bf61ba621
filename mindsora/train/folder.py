"""Check the folders of a run before the training, and lock the run's folder while it trains."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindsora.errors import InputError

LOCK = "lock"


def check_writable(key: str, folder: Path) -> None:
    """Raise InputError if a folder, or the folder in which it would be created, is not writable. Leaves no files.

    key: of the recipe, for the message.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{key} = {str(folder)!r}: {existing}: {error.strerror}; choose a folder that can be written"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder of a run and lock it against other trainings. The system unlocks it when the process ends.

    Raises:
        InputError: another process trains there, or the folder cannot be written.
    """
    check_writable("run.out", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW: otherwise a link of that name would redirect the write to its target.
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise InputError(f"run.out = {str(folder)!r}: {error.strerror}; choose a folder that can be written") from error
    with open(lock, "r+", encoding="ascii", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            process = file.read(20).strip()
            raise InputError(
                f"run.out = {str(folder)!r}: process {process} trains there; wait for it, or choose another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
