"""The hooks that time the tests: a file far over its budget fails a run that passes otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import budgets
import pytest

CONFTEST = """
import sys
sys.path.insert(0, {tests!r})
import budgets, pathlib
budgets.FILE, budgets.SLACK, budgets.RECORDED = pathlib.Path({file!r}), 0, 0.01
from budgets import pytest_addoption, pytest_configure
"""
SLEEPS = "import time\n\n\ndef test_sleep():\n    time.sleep(0.3)\n"


@pytest.fixture
def pytest_in(tmp_path):
    """Runs pytest on one test of 0.3 s, with no seconds of slack: (exit status, output)."""
    (tmp_path / "conftest.py").write_text(
        CONFTEST.format(tests=str(Path(__file__).parent), file=str(tmp_path / "budgets.json"))
    )
    (tmp_path / "test_sleep.py").write_text(SLEEPS)

    def run(seconds: dict, *options: str) -> tuple[int, str]:
        (tmp_path / "budgets.json").write_text(json.dumps(seconds))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize("workers", [0, 1])
def test_far_over_budget_fails(pytest_in, workers):
    status, out = pytest_in({"fast": {"test_sleep.py": 0.05}}, "-n", str(workers))  # over four times 0.05 s
    assert status == 1
    assert "1 passed" in out and "OVER BUDGET  test_sleep.py: 0 s in the fast tier, 0.05 s are budgeted" in out
    assert "largest process: 0." in out


def test_somewhat_over_budget_passes(pytest_in):
    status, out = pytest_in({"fast": {"test_sleep.py": 0.25}, "full": {"test_sleep.py": 0}})
    assert status == 0 and "OVER BUDGET" not in out


def test_record_budgets_replaces_the_entry_of_the_file_that_ran(pytest_in, tmp_path):
    pytest_in({"fast": {"test_sleep.py": 9, "test_other.py": 3}}, "--record-budgets")
    assert json.loads((tmp_path / "budgets.json").read_text()) == {"fast": {"test_other.py": 3, "test_sleep.py": 0}}


def test_tiers_have_budgets_of_their_own():
    files = {
        ("test_a.py", "fast"): 100,
        ("test_a.py", "full"): 100,
        ("test_a.py", "slow"): 1e6,
        ("test_b.py", "fast"): 29,
    }
    assert budgets.over_budget(files, {"fast": {"test_a.py": 20}, "full": {"test_a.py": 10}}) == [
        "test_a.py: 100 s in the full tier, 10 s are budgeted in budgets.json"
    ]


def test_committed_budgets_are_of_files_that_exist():
    names = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    for tier, entries in json.loads(budgets.FILE.read_text()).items():
        assert tier in ("fast", "full") and entries.keys() <= names
