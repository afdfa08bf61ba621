"""Write a benchmark's result file (a receipt): its numbers with command, machine, versions and date.

README and docs take their measured numbers from receipts (see fill_tables.py).
"""

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mindsora.files import write_json
from mindsora.machine import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
HEAD = ("command", "date", "machine", "versions")  # keys of every receipt


def write(name: str, packages: tuple[str, ...], numbers: dict) -> Path:
    """Write results/NAME.json.

    Args:
        packages: the packages whose versions matter for the numbers.
        numbers: the measurements and their shapes.
    """
    RESULTS.mkdir(exist_ok=True)
    head = {
        "command": " ".join(["python", *map(_shown, sys.argv)]),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }
    path = RESULTS / f"{name}.json"
    write_json(path, head | numbers)
    print(f"wrote {path}")
    return path


def commit() -> str | None:
    """The commit that is measured, with "+ changes" where files differ from it; None outside a repository."""
    head, changes = (
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for command in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return f"{head} + changes" if head and changes else head or None


def _shown(argument: str) -> str:
    """An argument of the command, without folders of this machine."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def spread(samples: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Summarise repeated measurements: number, median, lowest and highest."""
    low, middle, high = (round(f(samples), digits) for f in (min, statistics.median, max))
    return {"repeats": len(samples), "median": middle, "lowest": low, "highest": high}
