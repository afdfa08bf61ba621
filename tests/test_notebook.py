"""The notebooks run from top to bottom and show their stated results."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
MINUTES = 15  # for a cell: other tests may load the machine


class Executed:
    """A notebook's code cells with their outputs.

    Attributes:
        said: all that they printed.
        values: text of the cells' last expressions, in order.
    """

    def __init__(self, name: str, folder: Path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # the kernel is a process of its own
        monkeypatch.delenv("GLOG_v", raising=False)  # with it MindSpore's warnings would not appear
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without results
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=60 * MINUTES, kernel_name="python3", resources=resources).execute()
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        outputs = [output for cell in self.cells for output in cell.outputs]
        self.said = "".join(output.get("text", "") for output in outputs)
        results = [output for output in outputs if output.output_type == "execute_result"]
        self.values = [output.data["text/plain"] for output in results]
        self._data = [output.get("data", {}) for output in outputs]
        assert "[WARNING]" not in self.said, self.said

    @property
    def pictures(self) -> int:
        return sum("image/png" in data for data in self._data)

    @property
    def videos(self) -> int:
        return sum("<video" in data.get("text/html", "") for data in self._data)


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """execute(name): the notebook, run in an empty folder."""
    return lambda name: Executed(name, tmp_path, monkeypatch)


def test_every_notebook_has_a_test():
    tested = {
        "generate",
        "image_to_video",
        "autoencoders",
        "checkpoints",
        "sparse_attention",
        "plan_and_audit",
        "finetune",
    }
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == tested


@pytest.mark.full
def test_generate(execute, tmp_path):
    done = execute("generate")
    assert done.values[0] == "((17, 64, 64, 3), dtype('float32'))"
    assert (done.pictures, done.videos) == (1, 1)
    assert (tmp_path / "outputs" / "notebook.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_image_to_video(execute, tmp_path):
    done = execute("image_to_video")
    assert float(done.values[-1] if done.values[-1][0] == "0" else done.values[2]) < 0.05  # of the given frame
    assert (done.pictures, done.videos) == (3, 2)
    assert (tmp_path / "long.mp4.drift.json").is_file()


@pytest.mark.full
def test_autoencoders(execute):
    done = execute("autoencoders")
    psnr = {tuple(line.split()[:2]): float(line.split()[3]) for line in done.said.splitlines() if "PSNR" in line}
    assert len(psnr) == 4 and psnr["soft", "nano_vae_real"] > psnr["soft", "nano"]  # as the notebook says
    assert min(psnr.values()) > 10 and (done.pictures, done.videos) == (2, 1)


@pytest.mark.full
def test_checkpoints(execute):
    done = execute("checkpoints")
    assert "SUV" in done.said and "tensors are the same, bit for bit; 0 are not" in done.values[0]
    assert "0 became infinite" in done.values[1] and done.values[-1] == "False"
    assert "cut.pt" in done.said and done.pictures == 1


@pytest.mark.full
def test_sparse_attention(execute):
    done = execute("sparse_attention")
    assert "(0.25, 0.25, 1.0)" in done.values  # a quarter of the pairs each, all pairs one after the other
    assert "v1.5: " in done.said and "v1.3: " in done.said and done.pictures == 3


@pytest.mark.slow
def test_plan_and_audit(execute):
    done = execute("plan_and_audit")
    assert "num_frames = 120" in done.said and '"frames_sha256"' in done.said and "identical" in done.said
    assert done.values[-1] == "(True, [])" and (done.pictures, done.videos) == (2, 1)


@pytest.mark.slow
def test_finetune(execute, tmp_path):
    done = execute("finetune")
    assert done.pictures == 1 and list((tmp_path / "outputs/lora").glob("*.safetensors"))
