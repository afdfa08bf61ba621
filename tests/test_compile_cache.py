"""Compiled graphs across processes: a process reads equal graphs from the cache and recompiles different ones."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindsora.compile_cache import check_folder, compile_cache
from mindsora.errors import InputError

ROOT = Path(__file__).parents[1]
# Two Cells, compiled in the order and with the factor that the command line names; one with a parameter of its own.
PROGRAM = """
import sys
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindsora.compile_cache import compile_cache


class Times(nn.Cell):
    def __init__(self, factor):
        super().__init__()
        self.factor, self.weight = factor, Parameter(Tensor(np.full(2, 10, np.float32)), name="weight")

    def construct(self, x):
        return x * self.weight * self.factor


class Plus(Times):
    def construct(self, x):
        return x + self.weight + self.factor


if __name__ == "__main__":
    ms.set_device("CPU")
    order, factor, fail = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    with compile_cache("cache", [order, factor]):
        for name in order.split("-"):
            y = ms.jit({"times": Times, "plus": Plus}[name](factor))(Tensor(np.ones(2, np.float32)))
            print(name, float(y.asnumpy()[0]))
        assert not fail, "stopped"
    with compile_cache("cache", "something else"):
        print(ms.jit(Plus(0.5))(Tensor(np.ones(2, np.float32))).asnumpy()[0])
"""
READ = "Use the compilation cache"  # in MindSpore's log, once for each graph


@pytest.fixture
def program(tmp_path):
    """Runs it: (printed lines, graphs that came from the cache)."""
    (tmp_path / "program.py").write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": str(ROOT), "GLOG_v": "2"}

    def run(*arguments: str, status: int = 0, **more: str):
        done = subprocess.run(
            [sys.executable, "program.py", *arguments], cwd=tmp_path, env=env | more, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        log = done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if not line.startswith("[")], log.count(READ)

    return run


def test_graphs_are_read_where_everything_is_the_same(program, tmp_path):
    """MindSpore's unguarded cache returned the first graph of another order and another process's factor."""
    here, other, half = ["times 20.0", "plus 13.0", "11.5"], ["plus 13.0", "times 20.0", "11.5"], ["times 5.0", "11.5"]
    assert program("times-plus", "2") == (here, 0)
    assert program("times-plus", "2") == (here, 2)
    assert program("plus-times", "2") == (other, 0)
    assert program("times", "0.5") == (half, 0)
    assert program("times", "0.5") == (half, 1)
    assert program("times-plus", "2") == (here, 2)
    assert len(list((tmp_path / "cache").iterdir())) == 3 == len(list((tmp_path / "cache").glob("*/*/*/*.hash")))


def test_a_process_that_fails_leaves_nothing(program, tmp_path):
    program("times-plus", "2", "stop", status=1)
    assert list((tmp_path / "cache").iterdir()) == []
    assert program("times-plus", "2")[1] == 0


@pytest.mark.full
@pytest.mark.parametrize("enabled", ["0", "1"])
def test_a_variable_of_mindspore_has_no_effect(program, tmp_path, enabled):
    """Switched off, nothing was kept; switched on, MindSpore's own cache was used with its existing contents."""
    variables = {"MS_COMPILER_CACHE_ENABLE": enabled, "MS_COMPILER_CACHE_PATH": str(tmp_path / "own")}
    assert program("times", "0.5", **variables) == (["times 5.0", "11.5"], 0)
    assert program("times", "2", **variables) == (["times 20.0", "11.5"], 0)
    assert program("times", "2", **variables) == (["times 20.0", "11.5"], 1)
    assert len(list((tmp_path / "cache").iterdir())) == 2 and not (tmp_path / "own").exists()


@pytest.mark.parametrize("damage", ["cut", "swapped", "empty", "no checksums"])
def test_damaged_graphs_are_compiled_again(program, tmp_path, damage):
    first, _ = program("times-plus", "2")
    (folder,) = (tmp_path / "cache").iterdir()
    # The two graphs themselves; what else MindSpore writes is shorter.
    files = sorted(
        (f for f in folder.rglob("*") if f.is_file() and f.name != "checksums.json"), key=lambda f: -f.stat().st_size
    )[:2]
    if damage == "swapped":
        one, other = (file.read_bytes() for file in files)
        files[0].write_bytes(other)
        files[1].write_bytes(one)
    elif damage == "no checksums":
        (folder / "checksums.json").unlink()
    else:
        content = files[0].read_bytes()
        files[0].write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    again, graphs = program("times-plus", "2")
    assert again == first and graphs == 0  # none came from the damaged folder
    assert program("times-plus", "2") == (first, 2)  # and the new one serves


def test_a_full_disk_keeps_nothing(tmp_path, monkeypatch):
    from mindsora import compile_cache as cache

    made = tmp_path / "made"
    made.mkdir()
    (made / "graph.mindir").write_bytes(b"cut")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.warns(UserWarning, match="its disk is full"):
        cache._keep(made, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_longest_unused_graphs_go_first(tmp_path, monkeypatch):
    from mindsora import compile_cache as cache

    monkeypatch.setattr(cache, "LIMIT", 250)
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "graph.mindir").write_bytes(bytes(100))
        (tmp_path / name / cache.CHECKSUMS).write_text("{}")
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    (tmp_path / "written now.partial").mkdir()
    cache._trim(tmp_path, keep=tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle", "written now.partial"}
    monkeypatch.setattr(cache, "LIMIT", 0)
    cache._trim(tmp_path, keep=tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "written now.partial"}


def test_graphs_that_are_removed_during_a_run_are_no_error(tmp_path, monkeypatch):
    """`mindsora cache --clear` while a run reads them."""
    from mindsora import compile_cache as cache

    monkeypatch.setattr(cache, "_used", False)
    monkeypatch.setattr(cache.os, "environ", dict(os.environ))
    monkeypatch.setattr(cache, "_is_whole", lambda target: True)
    key = hashlib.sha256(b'"what"').hexdigest()[:16]
    (tmp_path / key).mkdir()
    with cache.compile_cache(str(tmp_path), "what"):
        shutil.rmtree(tmp_path / key)
    assert list(tmp_path.iterdir()) == []


def test_folder_of_a_run(monkeypatch, tmp_path):
    from mindsora.compile_cache import chosen_folder

    (tmp_path / "program").write_text("import sys\n")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program")])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert chosen_folder(None) == str(tmp_path / "mindsora" / "graphs")
    assert chosen_folder("none") is None and chosen_folder(str(tmp_path / "own")) == str(tmp_path / "own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert chosen_folder(None) is None


def test_a_program_without_a_script_keeps_nothing(monkeypatch, tmp_path):
    """MindSpore parses the script: it ended `python -c` with a traceback."""
    from mindsora.compile_cache import chosen_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for program in ("-c", "", sys.executable):
        monkeypatch.setattr(sys, "argv", [program])
        assert chosen_folder(None) is None
        with pytest.raises(InputError, match="graphs of a script alone"):
            chosen_folder(str(tmp_path))


def test_without_a_folder_nothing_changes(monkeypatch):
    monkeypatch.delenv("MS_COMPILER_CACHE_ENABLE", raising=False)
    before = dict(os.environ)
    with compile_cache(None, "anything"):
        assert dict(os.environ) == before


def test_bad_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="compiled graphs in .*file"):
        check_folder(str(tmp_path / "file"))
    check_folder(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
