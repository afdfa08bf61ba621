"""Damage what the caches hold at random places: the next run notices, makes it anew, and computes the same.

python tests/campaigns/damage.py [--rounds N]
"""

import random
import re
import shutil
import sys
from pathlib import Path

import harness
from fuzzing import KINDS, harmed
from test_compile_cache import PROGRAM, READ
from test_kernels_build import FIRST_USE, RESULT, SOURCE

PATH_OF_LIBRARY = """
import sys
from pathlib import Path
from mindsora.kernels.build import library
print(library(Path(sys.argv[1])).path)
"""


def damage(path: Path, draw: random.Random) -> None:
    """Replace a file (a process that has it mapped keeps the old one) by a damaged copy, or remove it."""
    before = path.read_bytes()
    after = before
    while after == before:
        kind = draw.choice([*KINDS, "remove"])
        if kind == "remove":
            path.unlink()
            return
        after = harmed(before, [(kind, draw.random(), draw.randrange(256), draw.randrange(1, 64), draw.randbytes(8))])
    path.unlink()
    path.write_bytes(after)


def kernel_libraries(folder: Path, rounds: int) -> dict:
    """The library of an operator and its checksum."""

    def run(program: str) -> str:
        return harness.run([sys.executable, "-c", program, str(SOURCE)], folder, XDG_CACHE_HOME=str(folder / "cache"))

    library = Path(run(PATH_OF_LIBRARY).strip())
    good, draw, files = library.read_bytes(), random.Random(0), [library, library.with_name(f"{library.name}.sha256")]
    for _ in range(rounds):
        damage(draw.choice(files), draw)
        assert run(FIRST_USE) == RESULT
        assert library.read_bytes() == good
    return {"damages": rounds}


def compiled_graphs(folder: Path, rounds: int) -> dict:
    """Any file of a folder of compiled graphs."""
    (folder / "program.py").write_text(PROGRAM)
    draw, taken = random.Random(0), 0

    def run() -> str:  # GLOG_v: MindSpore says when it takes a graph from its cache
        return harness.run([sys.executable, "program.py", "times-plus", "2"], folder, GLOG_v="2")

    def lines(log: str) -> list[str]:
        return re.findall(r"^(?:times |plus )?[\d.]+$", log, re.MULTILINE)

    expected = lines(run())
    shutil.copytree(folder / "cache", folder / "good")
    for _ in range(rounds):
        (kept,) = (folder / "cache").iterdir()
        damage(draw.choice(sorted(path for path in kept.rglob("*") if path.is_file())), draw)
        log = run()
        assert lines(log) == expected, log
        taken += log.count(READ) > 0
        shutil.rmtree(folder / "cache")
        shutil.copytree(folder / "good", folder / "cache")
    return {"damages": rounds, "runs_that_read_the_cache": taken}


PARTS = {kernel_libraries: 20, compiled_graphs: 20}

if __name__ == "__main__":
    harness.main("damage", __doc__, PARTS)
