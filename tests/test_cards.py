"""recipes/cards.sh: several processes that train, and what happens when one of them dies or the run is stopped."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ranks import environment
from test_data_parallel import rows

from mindsora import cli

ROOT = Path(__file__).parents[1]
TIMEOUT = 480  # seconds a run may take on a loaded machine
LONGEST = 30  # seconds from the death of a rank to the end of all, as docs/parallel.md states


@pytest.fixture
def cards(tmp_path):
    """cards(folder, steps, pause): start a training in two processes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    toy = programs / "mindsora"
    toy.write_text(
        f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(ROOT / 'tests/toy_ranks.py')!r}, run_name='__main__')\n"
    )
    toy.chmod(0o755)
    started = []

    def start(folder: Path, steps: int, pause: float = 0.0, **given) -> subprocess.Popen:
        env = environment() | {"CARDS": "2", "LOGS": str(folder / "logs")} | given
        env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
        command = ["bash", str(ROOT / "recipes/cards.sh"), str(folder), str(steps), str(pause)]
        run = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(run)
        return run

    yield start
    for run in started:
        if run.poll() is None:
            run.terminate()
            run.wait(TIMEOUT)


def wait_for(condition, run: subprocess.Popen) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def has_rows(folder: Path, count: int) -> bool:
    log = folder / "log.jsonl"
    return log.exists() and log.read_text().count("\n") >= count


def process(folder: Path, rank: int) -> int:
    return int((folder / f"rank_{rank}.pid").read_text())


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed(cards, folder: Path, rank: int, pause: float = 0.0) -> float:
    """Kill a rank behind the sixth step. Returns the seconds until every process has ended."""
    run = cards(folder, 100_000, pause=0.05)
    wait_for(lambda: has_rows(folder, 6), run)
    time.sleep(pause)
    os.kill(process(folder, rank), signal.SIGKILL)
    before = time.monotonic()
    _, said = run.communicate(timeout=TIMEOUT)
    seconds = time.monotonic() - before
    assert run.returncode == 1
    assert said.count(f"rank {rank} was ended by signal 9") == 1, said
    assert not any(is_alive(process(folder, one)) for one in (0, 1))
    return seconds


def goes_on(cards, folder: Path) -> None:
    """The last state is whole: the same command goes on behind it."""
    newest = max(int(path.stem[6:]) for path in folder.glob("state_*.safetensors"))
    run = cards(folder, newest + 3)
    out, said = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 0, out + said
    assert [row["step"] for row in rows(folder)[-3:]] == [newest + 1, newest + 2, newest + 3]


@pytest.mark.full
def test_a_dead_rank_ends_all(cards, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    killed(cards, folder, 1)
    goes_on(cards, folder)


@pytest.mark.slow
def test_a_stopped_run_saves_its_state(cards, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = cards(folder, 100_000, pause=0.05)
    wait_for(lambda: has_rows(folder, 1), run)
    run.send_signal(signal.SIGTERM)
    out, said = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 128 + signal.SIGTERM, out + said
    assert "stopped after step" in out
    goes_on(cards, folder)


@pytest.mark.slow
def test_ten_moments(cards, tmp_path):
    rng = random.Random(0)
    for moment in range(10):
        folder = tmp_path / f"run_{moment}"
        folder.mkdir()
        seconds = killed(cards, folder, moment % 2, rng.uniform(0, 3))
        assert seconds <= LONGEST
        goes_on(cards, folder)


@pytest.mark.slow
def test_two_jobs_do_not_meet(cards, tmp_path):
    """Two runs at once on one host, each with a port of its own, end as each would alone."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    runs = [cards(folder, 20, pause=0.1) for folder in folders]
    for run in runs:
        out, said = run.communicate(timeout=TIMEOUT)
        assert run.returncode == 0, out + said
    one, two = (rows(folder) for folder in folders)
    assert [row["loss"] for row in one] == [row["loss"] for row in two]


@pytest.mark.slow
def test_one_card_starts_no_group(cards, tmp_path):
    run = cards(tmp_path, 2, CARDS="1")
    out, said = run.communicate(timeout=TIMEOUT)
    assert run.returncode == 0, out + said
    assert not (tmp_path / "logs").exists()
    assert "rank_skew" not in rows(tmp_path)[0]


@pytest.mark.slow
def test_doctor_compares_ranks(tmp_path):
    """`mindsora doctor --ranks 2` starts its processes itself."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"\1" * 1000)
    command = [sys.executable, "-m", "mindsora.cli", "doctor", "--ranks", "2", "--json", "--weights", str(weights)]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert {row["state"] for row in found.values()} == {"ok"}
    assert hashlib.sha256(b"." + weights.read_bytes()).hexdigest() in found["weights"]["found"]  # a file's name is "."
    assert "64 MiB" in found["all-reduce"]["found"]


def test_doctor_names_the_rank_that_differs(monkeypatch):
    from mindsora.audit import ranks
    from mindsora.parallel.collectives import Group

    def all_rows(array, group):
        other = array.copy()
        other[:5] = np.frombuffer(b"other", np.uint8)
        return np.stack((array, array, other))

    monkeypatch.setattr(ranks, "all_rows", all_rows)
    finding = ranks.equal("versions", "NumPy 1.26", Group("all", (0, 1, 2), 0))
    assert (finding.state, "rank 2: other" in finding.found) == ("wrong", True)


@pytest.mark.parametrize("ranks", ["0", "1", "-3"])
def test_doctor_needs_two_ranks(ranks, capsys):
    assert cli.main(["doctor", "--ranks", ranks]) == 2
    assert "a number from 2" in capsys.readouterr().err
