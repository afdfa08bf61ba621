"""The hooks that time the tests: a file far over its budget fails an otherwise passing run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import budgets
import pytest

CONFTEST = """
import itertools, pathlib, sys
sys.path.insert(0, {tests!r})
import budgets
budgets.FILE, budgets.SLACK = pathlib.Path({file!r}), 0
budgets._processor_seconds = itertools.count(0, 7).__next__  # 7 s from the beginning of a test to its end
from budgets import pytest_addoption, pytest_configure
"""


@pytest.fixture
def pytest_in(tmp_path):
    """Runs pytest on one test of 7 s, with no seconds of slack: (exit status, output)."""
    (tmp_path / "conftest.py").write_text(
        CONFTEST.format(tests=str(Path(__file__).parent), file=str(tmp_path / "budgets.json"))
    )
    (tmp_path / "test_some.py").write_text("def test_it():\n    pass\n")

    def run(seconds: dict, *options: str) -> tuple[int, str]:
        (tmp_path / "budgets.json").write_text(json.dumps(seconds))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_three_times_the_budget_fails(pytest_in, workers):
    status, out = pytest_in({"fast": {"test_some.py": 2}}, "-n", str(workers))
    assert status == 1 and "1 passed" in out
    assert "OVER BUDGET  test_some.py: 7 s in the fast tier, 2 s are budgeted" in out
    assert re.search(r"largest process: \d+\.\d GiB, reached in test_some.py::test_it", out)


def test_less_than_three_times_the_budget_passes(pytest_in):
    status, out = pytest_in({"fast": {"test_some.py": 3}, "full": {"test_some.py": 0}})
    assert status == 0 and "OVER BUDGET" not in out


def test_record_budgets_replaces_the_entry_of_the_file_that_ran(pytest_in, tmp_path):
    assert pytest_in({"fast": {"test_some.py": 99, "test_other.py": 3}}, "--record-budgets")[0] == 0
    assert json.loads((tmp_path / "budgets.json").read_text()) == {"fast": {"test_other.py": 3, "test_some.py": 7}}


def test_tiers_have_budgets_of_their_own():
    files = {
        ("test_a.py", "fast"): 79,
        ("test_a.py", "full"): 79,
        ("test_a.py", "slow"): 1e6,
        ("test_b.py", "fast"): 19,
    }
    assert budgets.over_budget(files, {"fast": {"test_a.py": 20}, "full": {"test_a.py": 10}}) == [
        "test_a.py: 79 s in the full tier, 10 s are budgeted in budgets.json"
    ]


def test_committed_budgets_are_of_files_that_exist():
    names = {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    for tier, entries in json.loads(budgets.FILE.read_text()).items():
        assert tier in ("fast", "full") and entries.keys() <= names
