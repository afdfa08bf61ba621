"""Measure the seconds of `import mindsora` and of `mindsora --help`, each in a separate process.

    python benchmarks/start_up.py [--repeats 20]

The number is the wall time of the whole process; the interpreter's own start is measured separately too. Writes
benchmarks/results/start_up.json; the status is 1 if a median exceeds its limit.
"""

import argparse
import subprocess
import sys
import time

import receipt

# name -> (arguments of the interpreter, limit in seconds)
CASES = {
    "python": (["-c", "pass"], None),
    "import_mindsora": (["-c", "import mindsora, sys; assert 'mindspore' not in sys.modules"], 0.3),
    "mindsora_help": (["-m", "mindsora.cli", "--help"], 0.5),
    "mindsora_generate_help": (["-m", "mindsora.cli", "generate", "--help"], None),
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=receipt.ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    for arguments, _ in CASES.values():  # one unmeasured run writes byte code and fills the page cache
        seconds(arguments)
    samples = {name: [] for name in CASES}
    for _ in range(args.repeats):
        for name, (arguments, _) in CASES.items():
            samples[name].append(seconds(arguments))
    rows = {
        name: receipt.spread(taken) | ({"limit": limit} if limit else {})
        for (name, (_, limit)), taken in zip(CASES.items(), samples.values())
    }
    for name, row in rows.items():
        print(name, row)
    receipt.write("start_up", (), {"unit": "s", "seconds": rows})
    if late := [name for name, row in rows.items() if row["median"] > row.get("limit", float("inf"))]:
        sys.exit(f"over the limit: {', '.join(late)}")


if __name__ == "__main__":
    main()
