"""Measure a run of the tests: its slowest tests, its memory, and the seconds of every file against a budget.

`budgets.json` gives the seconds of a file in a tier. They are CPU seconds of the test's process and its child
processes, and hardly depend on other load. `pytest --record-budgets` rewrites them for the files that it runs. A run
fails if a file needs far more than its budget.
"""

import json
import os
import resource
from collections import defaultdict
from pathlib import Path

FILE = Path(__file__).parent / "budgets.json"
FACTOR, SLACK = 3, 20  # a slower processor must not fail: three times the budget and 20 s
RECORDED = 2  # seconds; a file that needs less has no entry, and SLACK alone is its budget
SLOWEST = 30


class Costs:
    """A pytest plugin of the process that runs tests: it adds CPU seconds and peak memory to each report."""

    def pytest_runtest_setup(self):
        self.start = _processor_seconds()

    def pytest_runtest_teardown(self, item):
        item.user_properties += [
            ("seconds", _processor_seconds() - self.start),
            ("peak_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20),
        ]


class Budgets:
    """A pytest plugin of the process that reports: the controller of the workers, or the only process."""

    def __init__(self, record: bool):
        self.record = record
        self.tests = defaultdict(float)  # test -> wall-clock seconds of set-up, call and tear-down
        self.files = defaultdict(float)  # (file, tier) -> CPU seconds
        self.peak = 0, ""  # GiB of the largest process so far, and the test that made it so
        self.failures = []

    def pytest_runtest_logreport(self, report):
        self.tests[report.nodeid] += report.duration
        if report.when == "teardown":
            costs = dict(report.user_properties)
            tier = next((name for name in ("slow", "full") if name in report.keywords), "fast")
            self.files[Path(report.nodeid.split("::")[0]).name, tier] += costs["seconds"]
            if costs["peak_gib"] > self.peak[0]:
                self.peak = costs["peak_gib"], report.nodeid

    def pytest_sessionfinish(self, session):
        if self.record:
            write(self.files)
        self.failures = over_budget(self.files, json.loads(FILE.read_text(encoding="utf-8")))
        if self.failures and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        if not self.tests:
            return
        terminalreporter.section(f"{SLOWEST} slowest tests, from half a second")
        for test, seconds in sorted(self.tests.items(), key=lambda item: -item[1])[:SLOWEST]:
            if seconds >= 0.5:
                terminalreporter.line(f"{seconds:7.1f} s  {test}")
        peak, test = self.peak
        terminalreporter.line(f"{sum(self.files.values()):.0f} s of the processor")
        terminalreporter.line(f"largest process: {peak:.1f} GiB, reached in {test}")
        for failure in self.failures:
            terminalreporter.line(f"OVER BUDGET  {failure}", red=True)


def _processor_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    return sum(os.times()[:4])


def over_budget(files: dict[tuple[str, str], float], budgets: dict[str, dict[str, float]]) -> list[str]:
    """A line for every (file, tier) whose seconds exceed its budget by far. Slow tests have no budget."""
    lines = []
    for (name, tier), seconds in sorted(files.items()):
        budget = budgets.get(tier, {}).get(name, 0)
        if tier != "slow" and seconds > FACTOR * budget + SLACK:
            lines.append(f"{name}: {seconds:.0f} s in the {tier} tier, {budget:g} s are budgeted in {FILE.name}")
    return lines


def write(files: dict[tuple[str, str], float]) -> None:
    """Replace the entries of these files in `budgets.json`."""
    budgets = json.loads(FILE.read_text(encoding="utf-8"))
    for (name, tier), seconds in files.items():
        entries = budgets.setdefault(tier, {})
        entries.pop(name, None)
        if seconds >= RECORDED and tier != "slow":
            entries[name] = round(seconds)
    text = json.dumps({tier: budgets[tier] for tier in ("fast", "full") if tier in budgets}, indent=2, sort_keys=True)
    FILE.write_text(text + "\n", encoding="utf-8")


def pytest_addoption(parser):
    parser.addoption("--record-budgets", action="store_true", help="write the seconds of this run to budgets.json")


def pytest_configure(config):
    config.pluginmanager.register(Costs())
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Budgets(config.getoption("record_budgets")))
