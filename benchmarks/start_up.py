"""Measure the seconds of `import mindsora`, of `mindsora --help` and of a first video, each in a separate process.

    python benchmarks/start_up.py [--repeats 20] [--videos 3]

The number is the wall time of the whole process; the interpreter's own start is measured separately too. `generate` runs
with nano's defaults: with an empty cache, as the first run after an installation; with compiled operators and no graphs,
as a first run with other options; and once more. Writes benchmarks/results/start_up.json; the status is 1 if a median
exceeds its limit.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import receipt

# name -> (arguments of the interpreter, limit in seconds)
CASES = {
    "python": (["-c", "pass"], None),
    "import_mindsora": (["-c", "import mindsora, sys; assert 'mindspore' not in sys.modules"], 0.3),
    "mindsora_help": (["-m", "mindsora.cli", "--help"], 0.5),
    "mindsora_generate_help": (["-m", "mindsora.cli", "generate", "--help"], None),
}
# name -> (what is removed from the cache before, limit in seconds)
VIDEOS = {"first_video": ("kernels graphs", 10), "video_without_graphs": ("graphs", None), "later_video": ("", 6)}


def seconds(arguments: list[str], **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=receipt.ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def video(folder: Path, removed: str) -> float:
    for kind in removed.split():
        shutil.rmtree(folder / "mindsora" / kind, ignore_errors=True)
    command = ["-m", "mindsora.cli", "generate", "a red circle moving right", "--output", str(folder / "a.mp4")]
    return seconds(command, XDG_CACHE_HOME=str(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--videos", type=int, default=3)
    args = parser.parse_args()
    for arguments, _ in CASES.values():  # one unmeasured run writes byte code and fills the page cache
        seconds(arguments)
    samples = {name: [] for name in CASES}
    for _ in range(args.repeats):
        for name, (arguments, _) in CASES.items():
            samples[name].append(seconds(arguments))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.videos):
            for name, (removed, _) in VIDEOS.items():
                samples.setdefault(name, []).append(video(Path(folder), removed))
    limits = {name: limit for name, (_, limit) in (CASES | VIDEOS).items()}
    rows = {
        name: receipt.spread(taken) | ({"limit": limits[name]} if limits[name] else {})
        for name, taken in samples.items()
    }
    for name, row in rows.items():
        print(name, row)
    receipt.write("start_up", (), {"unit": "s", "seconds": rows})
    if late := [name for name, row in rows.items() if row["median"] > row.get("limit", float("inf"))]:
        sys.exit(f"over the limit: {', '.join(late)}")


if __name__ == "__main__":
    main()
