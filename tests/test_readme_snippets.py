"""The Python of the first page runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.full
@pytest.mark.parametrize("number, written", [(0, "circle.mp4"), (1, "square.gif")])
def test_snippet(tmp_path, number, written):
    done = subprocess.run([sys.executable, "-c", SNIPPETS[number]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / written).stat().st_size > 1000
    if written.endswith(".gif"):
        with Image.open(tmp_path / written) as gif:
            assert gif.n_frames == 17 and gif.size == (64, 64)


def test_every_snippet_is_run():
    assert len(SNIPPETS) == 2
