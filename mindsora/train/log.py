"""The log of a run: a JSON object per row, and the same numbers for TensorBoard."""

import json
import os
from pathlib import Path

from mindsora.errors import InputError

LOG = "log.jsonl"


class Log:
    """Rows for the screen, for `log.jsonl` and, if asked for, for TensorBoard. A context: leaving it closes the files.

    Args:
        out: folder of the run.
        step: number of steps done; TensorBoard hides what an interrupted run logged beyond it.
        tensorboard: write event files to `out`/tensorboard.
        writes: False prints rows alone, on ranks other than the first.

    Raises:
        InputError: the files cannot be written, or tensorboardX is not installed.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool = False, writes: bool = True):
        self._events = _events(out / "tensorboard", step) if tensorboard and writes else None
        try:
            self._file = open(out / LOG if writes else os.devnull, "a", encoding="utf-8")  # noqa: SIM115  __exit__ closes it
        except OSError as error:
            text = f"run.out = {out}: {LOG}: {error.strerror}; choose a folder that can be written"
            raise InputError(text) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        if self._events is not None:
            self._events.close()

    def row(self, row: dict) -> None:
        """Write one row, whose `step` is the number of steps done. InputError: it cannot be written."""
        numbers = {name: value for name, value in row.items() if value is not None}
        print("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            if self._events is not None:
                for name in numbers.keys() - {"step"}:
                    self._events.add_scalar(name, row[name], row["step"])
        except OSError as error:
            text = f"{self._file.name}: {error.strerror}; make room, then give the same command again"
            raise InputError(text) from error


def _events(folder: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            "run.tensorboard: tensorboardX is not installed; pip install mindsora[tensorboard], or leave the key out"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
