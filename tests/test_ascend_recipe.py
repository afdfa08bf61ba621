"""The command for an Atlas, run without one: its steps, and the program that checks and times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ascend_sim.operator_package import skeleton

ROOT = Path(__file__).parents[1]
ASCEND = ROOT / "mindsora" / "kernels" / "ascend"


def run(*words, **environment):
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        ["bash", *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.full
def test_dry_run(tmp_path):
    done = run("recipes/ascend_kernels/run.sh", "--dry-run", OPP=str(tmp_path / "opp"), OUTPUT=str(tmp_path / "build"))
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    for part in (
        "op_project_templates/ascendc/customize",
        "vendor_name=mindsora",
        "ascend910b;ascend910_93",
        "skiparse_attention_grad.cpp",
        f"--install-path='{tmp_path}/opp'",
    ):
        assert any(part in step for step in steps), part
    assert "WRONG" not in done.stdout and "ok    skiparse_attention, n = 8, group skip" in done.stdout
    assert not list(tmp_path.iterdir())  # nothing is built or written


def test_the_build_says_what_it_needs():
    done = run(ASCEND / "build.sh", ASCEND_HOME_PATH="")
    assert done.returncode == 2 and "ASCEND_HOME_PATH is not set" in done.stderr
    assert run(ASCEND / "build.sh", "--wrong").returncode == 2


@pytest.fixture
def toolkit(tmp_path):
    """A CANN whose build leaves an empty package."""
    return skeleton(tmp_path / "cann", 'mkdir -p "${1#--install-path=}/vendors/mindsora"')


def test_build_with_a_stand_in_for_the_toolkit(toolkit, tmp_path):
    done = run(
        ASCEND / "build.sh",
        "--install",
        tmp_path / "opp",
        ASCEND_HOME_PATH=str(toolkit),
        OUTPUT=str(tmp_path / "out"),
        UNITS="ascend910b",
    )
    assert done.returncode == 0, done.stderr
    project = tmp_path / "out" / "project"
    for folder in ("op_host", "op_kernel"):
        ours = {path.name for path in (ASCEND / folder).iterdir()}
        assert {path.name for path in (project / folder).iterdir()} == ours | {"CMakeLists.txt"}
    variables = json.loads((project / "CMakePresets.json").read_text())["configurePresets"][0]["cacheVariables"]
    assert {name: v["value"] for name, v in variables.items()} == {
        "ASCEND_COMPUTE_UNIT": "ascend910b",
        "ASCEND_CANN_PACKAGE_PATH": str(toolkit),
        "vendor_name": "mindsora",
        "ENABLE_BINARY_PACKAGE": "True",
    }
    assert (tmp_path / "opp" / "vendors" / "mindsora").is_dir()
