"""The notebook runs from top to bottom and shows its stated results."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.full

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "generate.ipynb"


def test_notebook_runs_and_shows_frames(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))  # the kernel is a process of its own
    monkeypatch.delenv("GLOG_v", raising=False)  # with it MindSpore's warnings would not appear
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without results
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shape = next(output for output in cells[1].outputs if output.output_type == "execute_result")
    assert shape.data["text/plain"] == "((17, 64, 64, 3), dtype('float32'))"
    assert any("image/png" in output.get("data", {}) for output in cells[2].outputs)
    assert any("<video" in output.get("data", {}).get("text/html", "") for output in cells[3].outputs)
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "[WARNING]" not in said, said
    assert (tmp_path / "outputs" / "notebook.mp4").stat().st_size > 1000
