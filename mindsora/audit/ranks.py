"""Whether the ranks of a group can work together: equal programs, equal weights, and the speed of their exchange."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mindsora import __version__
from mindsora.audit.doctor import COMMAND, PATIENCE, Finding
from mindsora.errors import InputError, shown
from mindsora.parallel.collectives import AllReduce, Group, all_rows, sent
from mindsora.parallel.launch import leave
from mindsora.parallel.layout import Layout, mesh_of

PAYLOAD = 2**24  # float32 values of the measured all-reduce, 64 MiB: the size of a bucket of gradients
ROUNDS = 3
_WIDTH = 256  # bytes of a text that ranks compare


def start(ranks: int, weights: str | None) -> list[Finding]:
    """Start so many processes on this host, let them check each other, and return what rank 0 found.

    Args:
        weights: a file or folder that every rank reads.
    """
    beside = Path(sys.executable).with_name("msrun")
    msrun = str(beside) if beside.exists() else shutil.which("msrun")
    if msrun is None:
        return [Finding("ranks", "wrong", "there is no msrun", "python -m pip install mindspore")]
    with socket.socket() as one, tempfile.TemporaryDirectory() as logs:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        one.close()
        options = {"worker_num": ranks, "local_worker_num": ranks, "master_port": port, "log_dir": logs, "join": True}
        command = [msrun, *(f"--{name}={value}" for name, value in options.items()), "--bind_core=False"]
        command += ["python", "-c", COMMAND, str(Path(__file__).parents[2]), "doctor", "--json", "--ranks", str(ranks)]
        command += ["--weights", str(Path(weights).absolute())] if weights else []
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        try:
            subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return [Finding("ranks", "wrong", f"{ranks} processes found no end in {PATIENCE} s", _MEND)]
        return _read(Path(logs) / "worker_0.log", ranks)


_MEND = "look at HCCL's ports and the network: hccn_tool -i 0 -link -g"


def _read(log: Path, ranks: int) -> list[Finding]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in reversed(lines):
        if line.startswith("[["):
            return [Finding(*row) for row in json.loads(line)]
    said = shown(lines[-1]) if lines else "rank 0 has no log"
    return [Finding("ranks", "wrong", f"{ranks} processes did not find each other: {said}", _MEND)]


def check(ranks: int, weights: str | None) -> list[Finding]:
    """What the ranks of this group find. Every process that msrun started calls it.

    Raises:
        InputError: msrun started another number of processes, or the weights cannot be read.
    """
    world = mesh_of(Layout(dp=ranks)).world
    findings = [equal("versions", versions(), world)]
    if weights is not None:
        findings.append(equal("weights", digest(Path(weights)), world))
    findings.append(exchange(world))
    leave(world)
    return findings


def versions() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    return f"mindsora {__version__}, MindSpore {version('mindspore')}, NumPy {np.__version__}, Python {python}"


def digest(path: Path) -> str:
    """SHA-256 of a file, or of every file of a folder with its name."""
    try:
        files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        if not files:
            raise InputError(f"weights {shown(str(path))}: no such file, or an empty folder")
        total = hashlib.sha256()
        for one in files:
            total.update(one.relative_to(path).as_posix().encode())
            with open(one, "rb") as file:
                while block := file.read(2**24):
                    total.update(block)
    except OSError as error:
        raise InputError(f"weights {shown(str(path))}: {error.strerror}") from error
    return total.hexdigest()


def equal(name: str, text: str, world: Group) -> Finding:
    """Whether every rank says the same."""
    own = np.zeros(_WIDTH, np.uint8)
    data = np.frombuffer(text.encode()[:_WIDTH], np.uint8)
    own[: len(data)] = data
    said = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in all_rows(own, world)]
    others = [rank for rank, one in enumerate(said) if one != said[0]]
    if not others:
        return Finding(name, "ok", f"{world.size} ranks: {said[0]}")
    found = f"rank 0: {said[0]}; rank {others[0]}: {said[others[0]]}; {len(others)} of {world.size} ranks differ"
    return Finding(name, "wrong", found, "give every host the same packages and the same files")


def exchange(world: Group) -> Finding:
    """Sum PAYLOAD values over the ranks: whether the sum is right, and the bytes that each sends in a second."""
    from mindspore import Tensor

    reduce, x = AllReduce(world), Tensor(np.full(PAYLOAD, world.rank + 1, np.float32))
    right = bool((reduce(x).asnumpy() == world.size * (world.size + 1) / 2).all())
    before = time.perf_counter()
    for _ in range(ROUNDS):
        reduce(x).asnumpy()
    seconds = (time.perf_counter() - before) / ROUNDS
    if not right:
        return Finding("all-reduce", "wrong", f"the sum over {world.size} ranks is wrong", _MEND)
    speed = sent("all_reduce", 4 * PAYLOAD, world.size) / seconds / 1e9
    return Finding("all-reduce", "ok", f"{4 * PAYLOAD >> 20} MiB in {seconds:.3g} s: each rank sends {speed:.2g} GB/s")
