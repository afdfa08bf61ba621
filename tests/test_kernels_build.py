"""Compiling operators: once, by many processes at a time, and with faults of the cache or the compiler."""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from mindsora.kernels import build, choice
from mindsora.kernels.skiparse_permute import skiparse_permute

ROOT = Path(__file__).parents[1]
SOURCE = choice.source("skiparse_permute")  # the quickest to compile: a second

# A process's first use of the operator: compile or find it, load it, run it, print its result.
FIRST_USE = """
import ctypes, sys
from pathlib import Path
from mindsora.kernels.build import library
path = library(Path(sys.argv[1])).path
shape, skip = (ctypes.c_int64 * 2)(1, 4), (ctypes.c_int64 * 2)(2, 1)
x, y = (ctypes.c_float * 4)(1, 2, 3, 4), (ctypes.c_float * 4)()
pointers = (ctypes.c_void_p * 3)(*(ctypes.cast(a, ctypes.c_void_p) for a in (x, None, y)))
shapes = (ctypes.POINTER(ctypes.c_int64) * 3)(shape, skip, shape)
types, axes = (ctypes.c_char_p * 3)(b"float32", b"int8", b"float32"), (ctypes.c_int * 3)(2, 2, 3)
assert ctypes.CDLL(str(path)).SkiparsePermute(3, pointers, axes, shapes, types, None, None) == 0
print(list(y))
"""
RESULT = "[1.0, 3.0, 2.0, 4.0]\n"


def start(**environment) -> subprocess.Popen:
    """A process that uses the operator for the first time, in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-c", FIRST_USE, str(SOURCE)],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache, and no memory of what was compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    forget()
    yield tmp_path / "cache" / "mindsora" / "kernels"
    forget()


def forget():
    build.library.cache_clear()
    build._plain.cache_clear()


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_eight_processes_at_first_use_compile_once(folder, tmp_path):
    compiler = script(tmp_path / "compiler", f'echo once >> {tmp_path}/log; sleep 0.5; exec g++ "$@"')
    processes = [start(CXX=compiler) for _ in range(8)]
    for process in processes:
        assert process.communicate() == (RESULT, "")
    assert (tmp_path / "log").read_text() == "once\n"
    assert sorted(path.suffix for path in folder.iterdir()) == [
        ".lock",
        ".sha256",
        ".so",
    ]  # nothing half-written is left


def test_the_compiler_is_not_asked_again(folder):
    first = build.library(SOURCE).path
    stamp = first.stat().st_mtime_ns
    build.library.cache_clear()  # as in another process
    assert build.library(SOURCE).path == first and first.stat().st_mtime_ns == stamp


def test_a_changed_header_is_compiled_anew(folder, tmp_path, monkeypatch):
    first = build.library(SOURCE).path
    build.library.cache_clear()
    header = tmp_path / "more.h"
    header.write_text("// a change")
    monkeypatch.setattr(build, "HEADERS", [*build.HEADERS, header])
    assert build.library(SOURCE).path != first


def test_a_killed_process_is_no_obstacle(folder, tmp_path):
    """One process is killed while it compiles and another waits; that one and all later ones get the operator."""
    slow = script(tmp_path / "compiler", f"echo > {tmp_path}/started; sleep 100")
    killed = start(CXX=slow)
    wait_for((tmp_path / "started").exists)
    left = list(folder.glob("*.partial"))
    waiting = start(CXX=f"env NOTHING= {shutil.which('g++')}")
    time.sleep(1)
    assert waiting.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert waiting.communicate() == (RESULT, "")
    assert left and not list(folder.glob("*.partial"))


def test_a_damaged_library_is_compiled_anew(folder):
    path = build.library(SOURCE).path
    path.unlink()
    path.write_bytes(b"\x7fELF and no more")
    build.library.cache_clear()
    assert build.library(SOURCE).path == path
    assert path.stat().st_size > 1000 and ctypes.CDLL(str(path)).SkiparsePermute


@pytest.mark.parametrize("damage", ["truncated", "flipped", "without checksum"])
def test_a_library_is_compared_with_its_checksum_before_it_is_loaded(folder, damage):
    """A call to a truncated library ends the process; a library with altered bytes may compute wrong numbers."""
    path = build.library(SOURCE).path
    whole = path.read_bytes()
    checksum = path.with_name(path.name + ".sha256")
    path.unlink()  # the process has it mapped, so a new file leaves the old one intact
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        path.write_bytes(whole)
        checksum.unlink()
    build.library.cache_clear()
    assert build.library(SOURCE).path == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum.read_text()
    assert path.stat().st_size == len(whole)


def test_a_cache_that_cannot_be_written_is_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = build.library(SOURCE).path
    assert path.parent == tmp_path / f"mindsora-kernels-{os.getuid()}" and path.parent.stat().st_mode & 0o077 == 0
    ctypes.CDLL(str(path))


def test_no_folder_at_all(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.warns(UserWarning, match="Not a directory.*XDG_CACHE_HOME.*plain forms") as caught:
        assert choice.choose("skiparse_permute") == "reference"
        assert choice.choose("skiparse_permute") == "reference"
    assert len(caught) == 1


def test_a_folder_of_another_user_is_not_trusted(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 4711)  # the folder made below belongs to who runs the tests
    (tmp_path / "mindsora-kernels-4711").mkdir()
    os.chown(tmp_path / "mindsora-kernels-4711", 65534, -1) if os.geteuid() == 0 else None
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert build.library(SOURCE).path is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("echo error: unknown architecture >&2; exit 1", "unknown architecture"),
        ("exit 3", "exit status 3"),
        ("exit 0", "no library that loads"),
        ('while [ "$1" != -o ]; do shift; done; echo junk > "$2"', "no library that loads"),
    ],
    ids=["refuses", "fails silently", "writes nothing", "writes junk"],
)
def test_a_broken_compiler(folder, tmp_path, monkeypatch, text, words):
    """The result comes from the plain form; the compiler's message appears once."""
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", text))
    x = Tensor(np.arange(4, dtype=np.float32)[None])
    with pytest.warns(UserWarning, match=f"skiparse_permute could not be compiled.*{words}") as caught:
        for _ in range(2):
            rows = skiparse_permute(x, sparse_n=2, group=False)
    np.testing.assert_array_equal(rows.asnumpy(), [[[0, 2], [1, 3]]])
    assert len(caught) == 1
    assert not list(folder.glob("*.so")) and not list(folder.glob("*.partial"))


def test_a_compiler_that_is_not_there(folder, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.warns(UserWarning, match="/nowhere/g"):
        assert choice.choose("skiparse_permute") == "reference"


def test_a_compiler_that_is_no_command(folder, monkeypatch):
    monkeypatch.setenv("CXX", 'g++ "')
    with pytest.warns(UserWarning, match="CXX='g.. \"' is no command .no closing quotation.*ccache g.*plain forms"):
        assert choice.choose("skiparse_permute") == "reference"


def test_no_compiler_is_said_once_for_all_operators(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match="no C.. compiler was found; install g") as caught:
        assert {choice.choose(operator) for operator in choice.OPERATORS} == {"reference"}
    assert len(caught) == 1


def test_a_compiler_without_march_native_still_compiles(folder, tmp_path, monkeypatch):
    refuses = f'case "$*" in *native*) exit 1;; esac; exec {shutil.which("g++")} "$@"'
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", refuses))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ctypes.CDLL(str(build.library(SOURCE).path))
