"""What every benchmark's result file holds beside its numbers: command, machine, versions, date."""

import datetime
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from mindsora.train.export import write_json

RESULTS = Path(__file__).parent / "results"


def write(name: str, packages: tuple[str, ...], numbers: dict) -> Path:
    """Write results/NAME.json.

    Args:
        packages: whose versions matter for the numbers.
        numbers: what was measured.
    """
    RESULTS.mkdir(exist_ok=True)
    head = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }
    path = RESULTS / f"{name}.json"
    write_json(path, head | numbers)
    print(f"wrote {path}")
    return path


def processor() -> str:
    """The processor's name as Linux gives it, else its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
