"""The documents: links resolve, the Chinese and English first pages agree, the site builds without warnings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README_CN.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose)
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_both_first_pages_have_equal_commands_and_tables():
    english, chinese = text_of("README.md"), text_of("README_CN.md")
    assert FENCE.findall(english) == FENCE.findall(chinese)
    for pattern in (r"<!--=[^>]+-->[^<]*", r"\]\(([^)]+)\)", r"^\| (`[^|]+`) \|"):
        values = [sorted(set(re.findall(pattern, page, re.MULTILINE))) for page in (english, chinese)]
        values = [
            [v for v in page if v not in ("README.md", "README_CN.md")] for page in values
        ]  # each links the other
        assert values[0] == values[1]
    rows = [[line.count("|") for line in page.splitlines() if line.startswith("|")] for page in (english, chinese)]
    assert rows[0] == rows[1]


def test_contributing_names_files_that_exist():
    names = re.findall(r"`((?:mindsora|tests|recipes|benchmarks)/[\w./]+)`", text_of("CONTRIBUTING.md"))
    assert len(names) > 20
    for name in names:
        # A NAME stands for a model or an operator: at least one folder of that kind has the file.
        found = list(ROOT.glob(name.replace("NAME", "*"))) if "NAME" in name else [ROOT / name]
        assert any(path.exists() for path in found), name


def test_index_names_every_page():
    listed = set(re.findall(r"\]\((\w+\.md)\)", text_of("docs/index.md")))
    assert listed | {"index.md"} == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_page_of_dependencies_names_every_package():
    named = set(
        re.findall(r"`([\w.-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", text_of("docs/dependencies.md"), re.M)))
    )
    requirements = text_of("setup.py").split("install_requires")[1]
    required = set(re.findall(r'^ +"([A-Za-z][\w-]*)[^"]*",(?: +#.*)?$', requirements, re.M))
    assert {"mindspore", "torch", "av"} <= required and named == required


def test_model_cards_are_those_of_the_table():
    from mindsora.audit.catalogue import cards
    from mindsora.released import RELEASED

    page = text_of("docs/model_cards.md")
    assert page == cards(), "run python -m mindsora.audit.catalogue"
    sections = page.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [entry.name for entry in RELEASED]
    for section in sections:  # the three levels, in every card
        assert all(f"- **{level}**: " in section for level in ("Released", "Verified", "Not measured")), section


def test_site_builds_without_warnings(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not re.search(r"^WARNING", result.stderr, re.MULTILINE)
    assert (tmp_path / "site" / "status" / "index.html").is_file()
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    for name in ("text_to_video.TextToVideoPipeline", "zoo.list_models", "planning.plan", "refine.back_end"):
        assert re.search(rf'id="mindsora\.[\w.]*{re.escape(name)}"', reference), name
