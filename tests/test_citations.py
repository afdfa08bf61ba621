"""Documents that code and tests cite are in this repository."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = [path for top in ("mindsora", "tests", "benchmarks", "recipes") for path in sorted((ROOT / top).rglob("*.py"))]
DOCUMENTS = {
    path.name
    for pattern in ("*.md", "docs/*.md", "mindsora/**/*.md", "recipes/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
}
WRITTEN_BY_TESTS = {"page.md"}


def test_cited_documents_exist():
    for path in OURS:
        cited = {Path(name).name for name in re.findall(r"[\w./-]+\.md\b", path.read_text(encoding="utf-8"))}
        assert cited <= DOCUMENTS | WRITTEN_BY_TESTS, path
