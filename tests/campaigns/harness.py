"""What the campaigns share: their options, their loop, processes to kill, and the receipt.

A campaign repeats a fault many more times than a test does. Each is a script that runs alone:

    python tests/campaigns/kills.py [--rounds 20]
    python tests/campaigns/races.py [--rounds 20]
    python tests/campaigns/damage.py [--rounds 20]
    python tests/campaigns/corpora.py [--rounds 2]
    python tests/campaigns/soak.py [--rounds 150]
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
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import receipt  # noqa: E402  a script of benchmarks/, found by the line above

PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
PROGRAM = [sys.executable, "-m", "mindsora.cli"]


def main(name: str, about: str, parts: Sequence[Callable[[Path, int], dict]], rounds: int) -> None:
    """Run the parts of a campaign, each in a new folder, and write the receipt.

    Args:
        parts: functions of a folder and a number of rounds; their results stand in the receipt under their names.
        rounds: the default.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    args = parser.parse_args()
    start, numbers = time.monotonic(), {"rounds": args.rounds}
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            numbers[part.__name__] = part(Path(folder), args.rounds)
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
