"""Kill a conversion, a generation and a training with SIGKILL at random moments: nothing is lost, nothing is half.

    python tests/campaigns/kills.py [--rounds N]

After each kill the output is whole or absent; the same command then gives the bytes of an unbroken run. The training is
one run, killed once a round and resumed; its state at the end is that of an unbroken run.
"""

import random
import sys
import time
from pathlib import Path

import harness
from checkpoint_files import large_t5

from mindsora.files import SUFFIX, file_sha256
from mindsora.manifest import read

ROWS = 2**22  # of the converted table: 256 MB, so that most kills fall into the writing
CLIP = ["a cat", "--model", "nano", "--num-frames", "9", "--steps", "4", "--jit", "off", "--quiet", "--output", "a.mp4"]
TRAIN = """
import os, signal, sys, threading
import conftest
from test_train_resume import killed_by, toy_batch, toy_train
out, kill_at, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
toy_train(out, killed_by(signal.SIGKILL, kill_at) if kill_at >= 0 else toy_batch, steps)
"""
STEPS = 10  # of the training, a round


def kill_at_random(command: list[str], folder: Path, seconds: float, draw: random.Random, writing: bool) -> bool:
    """Start a command and kill it. Returns whether it was still running.

    Args:
        seconds: that the whole command takes.
        writing: kill it soon after its first temporary file appears, or at any moment.
    """
    process = harness.begin(command, folder)
    if writing:
        while process.poll() is None and not any(folder.glob(f"*{SUFFIX}")):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.2))
    else:
        time.sleep(draw.uniform(0, seconds))
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


def repeat(command: list[str], folder: Path, rounds: int, digest, remove) -> dict:
    """Kill a command and run it again, until it was killed `rounds` times while it ran.

    Args:
        digest: what the output holds, None where there is no output; an output that is not whole raises.
        remove: takes the output away.
    """
    start = time.monotonic()
    harness.run(command, folder)
    seconds, expected, draw = time.monotonic() - start, digest(), random.Random(0)
    remove()
    attempts = killed = whole = 0
    while killed < rounds:
        killed += kill_at_random(command, folder, seconds, draw, writing=attempts % 2 == 0)
        attempts += 1
        if digest() is None:
            harness.run(command, folder)
        else:
            whole += 1
        assert digest() == expected
        remove()
    return {"kills": killed, "whole_after_kill": whole}


def conversions(folder: Path, rounds: int, rows: int = ROWS) -> dict:
    large_t5(folder / "source", rows)
    source, target = folder / "source" / "weights.safetensors", folder / "target.safetensors"
    before = file_sha256(source)
    command = [*harness.PROGRAM, "convert", "source", target.name, "--quiet"]
    found = repeat(
        command, folder, rounds, lambda: file_sha256(target) if target.exists() else None, lambda: target.unlink()
    )
    assert file_sha256(source) == before
    return found | {"temporaries": left(folder, {"source"})}


def generations(folder: Path, rounds: int) -> dict:
    video, manifest = folder / "a.mp4", folder / "a.mp4.json"

    def digest() -> str | None:
        if not video.exists():
            return None
        found = file_sha256(video)
        assert read(manifest)["result"]["file_sha256"] == found
        return found

    def remove():
        video.unlink()
        manifest.unlink()

    found = repeat([*harness.PROGRAM, "generate", *CLIP], folder, rounds, digest, remove)
    return found | {"temporaries": left(folder, set())}


def left(folder: Path, inputs: set[str]) -> int:
    """The number of temporary files and locks that killed runs left; anything else is an error."""
    names = [path.name for path in folder.iterdir() if path.name not in inputs]
    strange = [name for name in names if not name.endswith((SUFFIX, ".lock"))]
    assert not strange, strange
    return len(names)


def trainings(folder: Path, rounds: int) -> dict:
    def train(out: str, kill_at: int):
        command = [sys.executable, "-c", TRAIN, out, str(kill_at), str(STEPS * rounds)]
        process = harness.begin(command, folder)
        output, _ = process.communicate()
        assert process.returncode == (-9 if kill_at >= 0 else 0), output

    draw = random.Random(0)
    train("unbroken", -1)
    for number in range(rounds):
        train("broken", STEPS * number + draw.randrange(1, STEPS))
    train("broken", -1)
    state = f"state_{STEPS * rounds:08d}.safetensors"
    assert file_sha256(folder / "unbroken" / state) == file_sha256(folder / "broken" / state)
    return {"kills": rounds}


PARTS = {conversions: 56, generations: 18, trainings: 15}

if __name__ == "__main__":
    harness.main("kills", __doc__, PARTS)
