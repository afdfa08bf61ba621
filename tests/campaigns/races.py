"""Let two processes write one output at once: every file is whole and from one of them, and no failure is silent.

    python tests/campaigns/races.py [--rounds N]

Two generations with one --output: both succeed, and the video and its manifest come from the same one. Two conversions
to one target, a file or a folder: one succeeds; the other one is refused by name.
"""

from pathlib import Path

import harness
from checkpoint_files import hashes, large_t5

from mindsora.files import file_sha256, remove
from mindsora.manifest import read

CLIP = ["a cat", "--model", "nano", "--num-frames", "1", "--steps", "2", "--jit", "off", "--quiet"]
REFUSALS = ("another process is writing", "exists; remove it")


def both(commands: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Exit status and output of processes that start together."""
    processes = [harness.begin(command, folder) for command in commands]
    outputs = [process.communicate()[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs)]


def generations(folder: Path, rounds: int) -> dict:
    commands = [[*harness.PROGRAM, "generate", *CLIP, "--seed", seed, "--output", "a.png"] for seed in "12"]
    expected = []
    for command in commands:
        harness.run(command, folder)
        expected.append(file_sha256(folder / "a.png"))
    assert expected[0] != expected[1]
    first = 0
    for _ in range(rounds):
        for status, output in both(commands, folder):
            assert status == 0, output
        found = file_sha256(folder / "a.png")
        manifest = read(folder / "a.png.json")
        assert found in expected and manifest["result"]["file_sha256"] == found
        assert manifest["request"]["seed"] == 1 + expected.index(found)
        first += expected.index(found) == 0
        assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.png.json"]
    return {"races": rounds, "won_by_the_first": first}


def conversions(folder: Path, rounds: int, rows: int = 2**20) -> dict:
    large_t5(folder / "source", rows)
    expected, refused = [], 0
    for kind in ("bf16", "fp32"):
        harness.run([*harness.PROGRAM, "convert", "source", f"{kind}.pt", "--dtype", kind, "--quiet"], folder)
        expected.append(hashes(folder / f"{kind}.pt"))
        (folder / f"{kind}.pt").unlink()
    for number in range(rounds):
        target = folder / ("x.ckpt" if number % 2 else "x")
        ends = both(
            [
                [*harness.PROGRAM, "convert", "source", target.name, "--dtype", kind, "--quiet"]
                for kind in ("bf16", "fp32")
            ],
            folder,
        )
        assert sorted(status for status, _ in ends) == [0, 2], ends
        refused += sum(any(words in output for words in REFUSALS) for status, output in ends if status == 2)
        won = [status for status, _ in ends].index(0)
        assert hashes(target) == expected[won]
        assert sorted(path.name for path in folder.iterdir()) == sorted(["source", target.name])
        remove(target)
    assert refused == rounds
    return {"races": rounds, "refused_by_name": refused}


PARTS = {generations: 20, conversions: 20}

if __name__ == "__main__":
    harness.main("races", __doc__, PARTS)
