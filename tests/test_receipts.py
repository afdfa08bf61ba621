"""Measured numbers in documents equal the committed receipts; a wrong number or one without a receipt fails."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def module(name: str):
    """Import a script of `benchmarks`, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


fill_tables, receipt, stale = map(module, ("fill_tables", "receipt", "stale"))

README = """# Things
| what | result |
| --- | --- |
| speed | <!--=speed gb_per_s .2f--><!--/--> GB/s |
| rows | <!--=speed rows.1.psnr .1f-->?<!--/--> dB of <!--=speed count ,d-->0<!--/--> |
| minutes | <!--=speed seconds/60 .1f--><!--/--> min on <!--=speed machine.processor s--><!--/--> |
| later | <!--=not_there_yet x .1f-->7.0<!--/--> dB |
"""
FILLED = """# Things
| what | result |
| --- | --- |
| speed | <!--=speed gb_per_s .2f-->1.23<!--/--> GB/s |
| rows | <!--=speed rows.1.psnr .1f-->30.5<!--/--> dB of <!--=speed count ,d-->12,345<!--/--> |
| minutes | <!--=speed seconds/60 .1f-->1.5<!--/--> min on <!--=speed machine.processor s-->Z80<!--/--> |
| later | <!--=not_there_yet x .1f-->not measured<!--/--> dB |
"""


@pytest.fixture
def repository(tmp_path):
    """A README and one receipt."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "speed.json").write_text(
        json.dumps(
            {
                "gb_per_s": 1.2345,
                "rows": [{"psnr": 20.0}, {"psnr": 30.46}],
                "count": 12345,
                "seconds": 90,
                "machine": {"processor": "Z80"},
            }
        )
    )
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("A page without numbers.\n")
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def check(repository, capsys) -> list[str]:
    """Run the check, assert that its status tells whether there are complaints, and return them."""
    status = fill_tables.main(["--check", "--root", str(repository)])
    captured = capsys.readouterr()
    assert status == bool(captured.err)
    return captured.err.splitlines()


def test_fill_then_check(repository, capsys):
    assert len(check(repository, capsys)) == 6  # every number, none of them right yet
    assert (repository / "README.md").read_text() == README  # checking changes nothing
    assert fill_tables.main(["--root", str(repository)]) == 0
    assert (repository / "README.md").read_text() == FILLED
    capsys.readouterr()
    assert check(repository, capsys) == []


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        (">1.23<", ">1.24<", "README.md:4: '1.24' stands where speed gb_per_s .2f has '1.23'"),
        (">not measured<", ">31.0<", "README.md:7: '31.0' stands where not_there_yet x .1f has 'not measured'"),
        ("gb_per_s .2f", "gb_per_hour .2f", "README.md:4: 'speed gb_per_hour .2f': speed.json has no 'gb_per_hour'"),
        ("rows.1.psnr", "rows.2.psnr", "README.md:5: 'speed rows.2.psnr .1f': speed.json has no 'rows.2.psnr'"),
        ("gb_per_s .2f", "rows .2f", "README.md:4: 'speed rows .2f': speed.json holds"),
        ("gb_per_s .2f", "gb_per_s", "README.md:4: 'speed gb_per_s': must read RECEIPT KEY.KEY FORMAT"),
        ("gb_per_s .2f", "gb_per_s d", "README.md:4: 'speed gb_per_s d': 1.2345 cannot be written as 'd'"),
        (">1.23<!--/-->", ">1.23", "README.md:4: "),
        ("# Things", "# Things\nIt took 17 s.", "README.md:2: '17 s' has no receipt"),
        ("# Things", "# Things\nPSNR 31.2 dB", "README.md:2: '31.2 dB' has no receipt"),
        ("# Things", "# Things\nright in 95 %", "README.md:2: '95 %' has no receipt"),
        *(
            ("# Things", f"# Things\nIt is 1,234.5 {unit}.", f"README.md:2: '1,234.5 {unit}' has no receipt")
            for unit in (
                "KiB",
                "MiB",
                "GiB",
                "TB",
                "MB/s",
                "GFLOP",
                "TFLOP",
                "PFLOP",
                "TFLOPs",
                "TFLOP/s",
                "ms",
                "milliseconds",
                "second",
                "minute",
                "hours",
                "h",
                "times faster",
                "x faster",
            )
        ),
    ],
)
def test_what_is_wrong_is_found(repository, capsys, old, new, complaint):
    (repository / "README.md").write_text(FILLED.replace(old, new, 1))
    complaints = check(repository, capsys)
    assert any(line.startswith(complaint) for line in complaints), complaints


def test_a_changed_receipt_is_found_in_docs_too(repository, capsys):
    (repository / "README.md").write_text(FILLED)
    (repository / "docs" / "page.md").write_text("<!--=speed gb_per_s .1f-->1.2<!--/--> GB/s")
    assert check(repository, capsys) == []
    (repository / "benchmarks" / "results" / "speed.json").write_text(json.dumps({"gb_per_s": 2}))
    assert any(line.startswith("docs/page.md:1: '1.2' stands where") for line in check(repository, capsys))


def test_what_is_not_measured_may_stand(repository, capsys):
    (repository / "README.md").write_text(
        "Clips of 17 frames at 8 fps, 2 halves of 64 x 64, 3 models, 4 Bands; 8 GPUs; `wait 5 s`\n```\nsleep 3 s\n<!--=an example .2f-->7 dB<!--/-->\n```\n"
        "Runs of 0.9 s<!--from: the recipe sets it-->\n"
    )
    before = (repository / "README.md").read_text()
    assert check(repository, capsys) == []
    assert fill_tables.main(["--root", str(repository)]) == 0
    assert (repository / "README.md").read_text() == before


def test_a_page_of_computed_numbers_says_so_once(repository, capsys):
    (repository / "README.md").write_text(FILLED)
    page = repository / "docs" / "page.md"
    page.write_text("# Model\nThe step takes 3 ms.\n")
    assert check(repository, capsys) == ["docs/page.md:2: '3 ms' has no receipt"]
    page.write_text("# Model\n<!--all from: computed-->\nThe step takes 3 ms.\n")
    assert check(repository, capsys) == []
    page.write_text(page.read_text() + "<!--=speed gb_per_s .1f-->9.9<!--/-->\n")  # a marked number is still checked
    assert len(check(repository, capsys)) == 1


def test_filling_stops_at_a_document_it_cannot_fill(repository, capsys):
    (repository / "README.md").write_text(README.replace("gb_per_s", "nothing"))
    assert fill_tables.main(["--root", str(repository)]) == 1
    assert "speed.json has no 'nothing'" in capsys.readouterr().err
    assert "?" in (repository / "README.md").read_text()


# This repository


def test_documents_agree_with_the_receipts(capsys):
    assert fill_tables.documents()
    assert check(ROOT, capsys) == []


def test_receipts_say_where_they_come_from():
    for path in RESULTS.glob("*.json"):
        content = json.loads(path.read_text())
        assert not [key for key in receipt.HEAD if key not in content], path.name
        folder = "tests/campaigns" if path.name.startswith("campaign_") else "benchmarks"
        assert content["command"].startswith(f"python {folder}/"), path.name
        assert {"processor", "cores"} <= content["machine"].keys(), path.name


def test_write_and_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(receipt, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/trial.py"), "/somewhere/else/clips", "--fast"])
    path = receipt.write("trial", ("numpy",), {"seconds": receipt.spread([3.0, 1.0, 2.0, 9.0])})
    content = json.loads(path.read_text())
    assert content["command"] == "python benchmarks/trial.py clips --fast"  # without a folder of this machine
    assert set(receipt.HEAD) <= content.keys() and "numpy" in content["versions"]
    assert content["seconds"] == {"repeats": 4, "median": 2.5, "lowest": 1.0, "highest": 9.0}


def test_every_receipt_has_a_list_of_what_it_measures():
    for path in RESULTS.glob("*.json"):
        for name in stale.measured(path.stem):
            assert (ROOT / name).exists() or path.name.startswith(("curate", "evaluate", "parallel")), (path.name, name)


def test_a_receipt_is_stale_after_a_change_of_what_it_measures(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def changed():
        return stale.changed_since(tmp_path / "speed.json", ("room", "one.py"), tmp_path)

    (tmp_path / "room").mkdir()
    git("init", "-q")
    for name in ("room/code.py", "one.py", "other.py"):
        (tmp_path / name).write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "speed.json").write_text(json.dumps({"commit": git("rev-parse", "HEAD").strip()[:12] + " + changes"}))
    assert changed() == []
    for name in ("room/code.py", "other.py"):
        (tmp_path / name).write_text("2\n")
    git("add", ".")
    git("commit", "-qm", "second")
    assert changed() == ["room/code.py"]
    (tmp_path / "speed.json").write_text("{}")  # without a commit, the receipt counts from the commit that wrote it
    git("add", ".")
    git("commit", "-qm", "third")
    assert changed() == []
    (tmp_path / "speed.json").write_text(json.dumps({"commit": "0123456789ab"}))
    assert changed() is None
