"""Run cases (`ascend_sim.cases`) on the simulated Ascend, in processes of their own, and say what came of each."""

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

from ascend_sim.graphs import SELECTED
from ascend_sim.operator_package import install
from ascend_sim.stand_ins import DoesNotFit, environment

TESTS = Path(__file__).parents[1]
PATIENCE = 1800  # seconds for a group of cases, on a machine with much else to do


@cache
def obstacle() -> str:
    """Why the back end does not load here, empty where it does."""
    try:
        done = python("-c", "import mindspore; mindspore.set_device('Ascend', 0)")
    except DoesNotFit as error:
        return str(error)
    if not done.returncode:
        return ""
    return (re.findall(r"^Load dynamic library: .*", done.stderr, re.M) or [_last_error(done)])[0]


def require() -> None:
    """Skip the test where the back end does not load; in CI that is a failure."""
    if not (reason := obstacle()):
        return
    reason = f"MindSpore's Ascend back end does not load: {reason}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def results(cases: tuple[str, ...], installed: bool = False) -> dict[str, dict]:
    """What each case ended in, see `ascend_sim.worker`. The cases share one process, in this order.

    installed: whether the package of our own operators is among CANN's.
    """
    require()
    extra = {}
    with tempfile.TemporaryDirectory(prefix="ascend_sim") as folder:
        if installed:
            extra["ASCEND_CUSTOM_OPP_PATH"] = str(install(Path(folder, "package")))
        done = python("-m", "ascend_sim.worker", *cases, extra=extra, folder=folder)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    found = {one["case"]: one for one in told}
    for name in cases:  # a process that died leaves no line
        found.setdefault(name, {"case": name, "error": _last_error(done)})
    return found


def python(*arguments, extra: dict | None = None, folder=None) -> subprocess.CompletedProcess:
    """Run Python with `arguments` on the simulated Ascend, in `folder` or in one that goes away."""
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH")]
    env = environment() | {"PYTHONPATH": ":".join(filter(None, paths))} | (extra or {})
    env |= {"MS_DEV_JIT_SYNTAX_LEVEL": "0", "MS_DEV_DUMP_IR_PASSES": SELECTED.removesuffix("*.ir")}
    env.pop("MS_DEV_HOST_BLOCKING_RUN", None)  # tests/conftest.py sets it for the CPU
    # A working folder that goes away: MindSpore leaves kernel_meta, rank_0 and the like where it runs.
    with tempfile.TemporaryDirectory(prefix="ascend_sim") as work:
        command = [sys.executable, *arguments]
        try:
            return subprocess.run(
                command, env=env, cwd=folder or work, capture_output=True, text=True, errors="replace", timeout=PATIENCE
            )
        except subprocess.TimeoutExpired as late:
            return subprocess.CompletedProcess(
                command, 1, (late.stdout or b"").decode(errors="replace"), f"Error: no end after {PATIENCE} s"
            )


def _last_error(done: subprocess.CompletedProcess) -> str:
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    lines = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return lines[-1] if lines else f"exit status {done.returncode}"
