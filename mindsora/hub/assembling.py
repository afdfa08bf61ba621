"""Published files to a model folder, component by component."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mindsora import ckpt_convert, zoo
from mindsora.errors import InputError, shown
from mindsora.files import replacing_folder
from mindsora.hub.selection import needed
from mindsora.released import Part, Released, released


def model_row(name: str) -> Released:
    """The row of a model that can be assembled. InputError: another name."""
    row = released(name)
    if row is None or not row.parts:
        names = ", ".join(row.name for row in zoo.RELEASED if row.parts)
        raise InputError(f"no published model {shown(name)}: must be one of {names}")
    return row


def assemble(
    name: str, copied: str | os.PathLike, folder: str | os.PathLike | None = None, report: Callable = print
) -> Path:
    """Make a model folder from files that were copied by hand. Components that are there already are kept.

    Args:
        name: such as "v1.5".
        copied: folder with a copy of each repository, named like it: `Open-Sora-Plan-v1.5.0`, `t5-v1_1-xl` and so on.
        folder: the model folder; None: where `mindsora.zoo.find` looks for the name.
        report: is given a line for each component.

    Returns:
        The model folder.

    Raises:
        InputError: no such model; files that are missing, all of them named; files that do not fit the model.
    """
    row, copied = model_row(name), Path(copied)
    folder = zoo.pulled(row) if folder is None else Path(folder)
    if not os.path.isdir(copied):
        raise InputError(f"{shown(copied)} is no folder: give the one with the copied files")
    problems = []
    for part in row.parts:
        try:
            needed(part, _names(copied / part.copy), str(copied / part.copy))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(f"{name} cannot be assembled: " + "; ".join(problems))
    with alone(folder):
        for part in row.parts:
            make(part, copied / part.copy, folder, report)
        finish(row, folder)
    return folder


def make(part: Part, source: Path, folder: Path, report: Callable = print) -> None:
    """Make one folder of a model, whole or not at all; keep one that is there.

    Args:
        source: copy of the part's repository.
    """
    target = folder / part.component
    if target.exists():
        report(f"{part.component}: is there")
        return
    if part.files:
        with _told(target), replacing_folder(target) as temporary:
            for name in part.files:
                shutil.copyfile(source / part.source / name, temporary / name)
        report(f"{part.component}: {', '.join(part.files)}")
    else:
        result = ckpt_convert.convert(source / part.source, target)
        report(f"{part.component}: {result.model}, {result.tensors} tensors, {result.nbytes / 1e9:.3f} GB")
        for warning in result.warnings:
            report(f"warning: {warning}")


def finish(row: Released, folder: Path) -> None:
    """Add scheduler and index, which mark a whole model."""
    published = zoo.CONFIGURATIONS / row.configuration
    with _told(folder):
        shutil.copytree(published / "scheduler", folder / "scheduler", dirs_exist_ok=True)
        shutil.copyfile(published / "model_index.json", folder / "model_index.json")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder, and let one process at a time write there. InputError: another one does."""
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(f"{shown(folder)} is being written by another process: wait for it") from error
    finally:
        os.close(descriptor)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {shown(path)}: {error.strerror or error}") from error


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
