"""Read generated hostile checkpoints: each is refused or read, in bounded memory and time, and none runs code.

    python tests/campaigns/corpora.py [--rounds N]

The corpus: every file of tests/bad_checkpoints.py and tests/checkpoint_bombs.py, and every program of tests/crafted.py
in its three containers; then, in each round, all of them damaged at random places.
"""

import json
import random
import sys
from pathlib import Path

import harness
from bad_checkpoints import BAD
from checkpoint_bombs import bombs
from crafted import gadgets
from fuzzing import KINDS, harmed
from test_convert_hostile import CHILD, CONTAINERS

LARGEST = 2**22  # bytes of a file that is damaged; a larger one of holes or zeros takes long to copy


def corpus(folder: Path) -> list[Path]:
    """Write the files; returns what a user would name."""
    paths = []
    for number, (make, _) in enumerate(BAD.values()):
        (folder / f"bad{number}").mkdir()
        paths.append(Path(make(folder / f"bad{number}")))
    for number, (data, _) in enumerate(bombs().values()):
        paths.append(folder / f"bomb{number}")
        paths[-1].write_bytes(data)
    for number, program in enumerate(gadgets(folder / "canary").values()):
        for kind, wrap in CONTAINERS.items():
            paths.append(folder / f"gadget{number}_{kind}.pt")
            paths[-1].write_bytes(wrap(program))
    return paths


def read(paths: list[Path], folder: Path) -> dict:
    """Read all files in one process of bounded memory: how many are refused, and its largest memory in MB."""
    output = harness.run([sys.executable, "-c", CHILD, *map(str, paths)], folder)
    rows = [json.loads(line) for line in output.splitlines()]
    assert len(rows) == len(paths)
    messages = [message for _, message, _ in rows if message is not None]
    assert all(message.isprintable() and len(message) < 2000 for message in messages)
    return {"files": len(rows), "refused": len(messages), "peak_mb": max(peak for *_, peak in rows)}


def as_written(folder: Path, rounds: int) -> dict:
    """Once: what is refused as it is does not become another file the second time."""
    found = read(corpus(folder), folder)
    assert found["refused"] == found["files"] and not (folder / "canary").exists()
    return found


def damaged(folder: Path, rounds: int) -> dict:
    draw, total = random.Random(0), {"files": 0, "refused": 0, "peak_mb": 0}
    for number in range(rounds):
        (folder / str(number)).mkdir()
        paths = corpus(folder / str(number))
        for path in paths:
            if path.is_file() and path.stat().st_size <= LARGEST:
                harm = draw.choice(KINDS), draw.random(), draw.randrange(256), draw.randrange(1, 64), draw.randbytes(8)
                path.write_bytes(harmed(path.read_bytes(), [harm]))
        found = read(paths, folder)
        total = {key: (max if key == "peak_mb" else int.__add__)(total[key], found[key]) for key in total}
        assert not (folder / str(number) / "canary").exists()
    return total


PARTS = {as_written: 1, damaged: 1}

if __name__ == "__main__":
    harness.main("corpora", __doc__, PARTS)
