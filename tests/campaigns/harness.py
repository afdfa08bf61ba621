"""What the campaigns share: their options, their loop, processes to kill, and the receipt.

A campaign repeats a fault many more times than a test does. Each is a script that runs alone:

    python tests/campaigns/kills.py
    python tests/campaigns/races.py
    python tests/campaigns/damage.py
    python tests/campaigns/corpora.py
    python tests/campaigns/soak.py
    python tests/campaigns/serving.py [--requests 300] [--clients 8]
    python tests/campaigns/fuzz.py [--minutes 10] [TARGET ...]

It stops with a traceback at the first thing that is not as it should be; otherwise it writes
benchmarks/results/campaign_NAME.json, from which docs/reliability.md takes its figures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import receipt  # noqa: E402  a script of benchmarks/, found by the line above

PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
PROGRAM = [sys.executable, "-m", "mindsora.cli"]


def main(name: str, about: str, parts: Mapping[Callable[[Path, int], dict], int]) -> None:
    """Run the parts of a campaign, each in a new folder, and write the receipt.

    Args:
        parts: functions of a folder and a number of rounds, and that number; their results stand in the receipt under
            their names.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    usual = ", ".join(f"{part.__name__} {rounds}" for part, rounds in parts.items())
    parser.add_argument("--rounds", type=int, help=f"of every part (default: {usual})")
    args = parser.parse_args()
    start, numbers = time.monotonic(), {}
    for part, rounds in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            numbers[part.__name__] = part(Path(folder), args.rounds or rounds)
        print(part.__name__, numbers[part.__name__], flush=True)
    finish(name, numbers, start)


def finish(name: str, numbers: dict, start: float) -> None:
    """Print the numbers and write the receipt of a campaign that began at `start` (time.monotonic)."""
    numbers["seconds"] = round(time.monotonic() - start)
    receipt.write(f"campaign_{name}", ("numpy",), numbers)


def begin(command: list[str], folder: Path, **variables: str) -> subprocess.Popen:
    """Start a process in a folder, one thread for each pool, its output in a pipe."""
    environment = os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "MS_DEV_JIT_SYNTAX_LEVEL": "0"}
    return subprocess.Popen(
        command, cwd=folder, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(command: list[str], folder: Path, **variables: str) -> str:
    """The output of a process that must succeed."""
    process = begin(command, folder, **variables)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output
