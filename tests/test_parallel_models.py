"""Models that several processes share equal the whole model. tests/parallel_jobs.py computes both in each process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from ranks import TIMEOUT, environment, msrun, run_ranks

from mindsora import TextToVideoPipeline, export_to_video
from mindsora.media import read_video
from mindsora.parallel.shards import Place

pytestmark = pytest.mark.full

LARGEST = {
    "output": 1e-5,  # of its standard deviation, and of a gradient's largest entry: float32 sums in another order
    "gradients": 1e-4,
    "frames": 2e-5,  # of a decoder, of their standard deviation: chunks add up in another order than a whole clip
    "extra bytes": 64,  # the beginning of a file, which tells its format
    "clip": 2,  # steps of 8-bit colour, after four steps of denoising
}


def check(job: str, layout: str, folder) -> None:
    for found in run_ranks(f"parallel_jobs:{job}", layout, folder):
        for name, value in found.items():
            kind = name.rpartition(": ")[2]
            if kind == "bytes":
                assert value.any(), name
                np.testing.assert_array_equal(value[:, 0], value[:, 1], err_msg=name)
            else:
                assert value <= LARGEST[kind], (name, value)


@pytest.mark.parametrize("job, layout", [("models", "cp=2"), ("models", "tp=2"), ("clips", "cfg=2")])
def test_two_ranks_equal_one_process(job, layout, tmp_path):
    """SUV, v1.3's denoisers, T5, WF-VAE: forward, backward, bytes read and sent; and clips of whole pipelines."""
    check(job, layout, tmp_path)


def test_generate_writes_one_file(tmp_path):
    """The first rank writes the clip and its manifest, which names the layout."""
    model = tiny_pipeline.write(tmp_path / "tiny")
    generate_on_two_ranks(tmp_path, "cfg=2", "--model", str(model), "--jit", "off")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cfg=2", "cp=2", "tp=2"])
def test_generate_in_graphs_equals_one_process(layout, tmp_path):
    """The command's defaults, on nano."""
    one = TextToVideoPipeline.from_pretrained("nano")("a cat", num_inference_steps=3, seed=0).frames[0]
    frames = generate_on_two_ranks(tmp_path, layout, "--steps", "3")
    alone = export_to_video(one, tmp_path / "alone.mp4", fps=8)
    assert np.abs(frames.astype(int) - read_video(alone)[0].astype(int)).max() <= LARGEST["clip"]


def generate_on_two_ranks(tmp_path, layout, *options):
    """The frames of the one clip that `generate` writes."""
    program = Path(sys.executable).with_name("mindsora")
    command = [str(program), "generate", "a cat", "--output", str(tmp_path / "out" / "cat.mp4"), *options]
    command += ["--parallel", layout, "--device", "CPU", "--compile-cache", "none"]
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        msrun(2, tmp_path / "logs", *command), env=environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    logs = "".join(path.read_text() for path in sorted((tmp_path / "logs").glob("worker*")))
    assert done.returncode == 0, logs[-3000:]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cat.mp4", "cat.mp4.json"], logs[-3000:]
    assert json.loads((tmp_path / "out" / "cat.mp4.json").read_text())["stack"]["parallel"] == layout
    return read_video(tmp_path / "out" / "cat.mp4")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "job, layout",
    [
        *((job, layout) for job in ("suv", "v1_3") for layout in ("cp=2", "tp=2", "cp=4", "cp=2,tp=2")),
        ("t5", "tp=2"),
        ("vae", "cp=2"),
    ],
)
def test_every_case_in_graphs_and_on_four_ranks(job, layout, tmp_path):
    check(job, layout, tmp_path)


@pytest.mark.parametrize("tokens", [1, 5, 64, 105, 147])
@pytest.mark.parametrize("n, group", [(1, False), (2, False), (2, True), (4, False), (4, True), (8, True)])
def test_ranks_have_every_token_once(tokens, n, group):
    rows = np.concatenate([Place(2, rank, n, group).rows(tokens) for rank in range(2)])
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(tokens))


@pytest.mark.parametrize("n, group", [(2, False), (2, True), (4, False), (4, True), (8, False), (8, True)])
def test_a_rank_has_whole_sub_sequences(n, group):
    for rank in range(2):
        rows = Place(2, rank, n, group).rows(147)
        sub_sequence = rows // n % n if group else rows % n
        assert set(sub_sequence[rows >= 0]) <= set(range(rank, n, 2))
        for row, own in zip(rows, sub_sequence):  # dealt out by single skip of n / 2
            assert row < 0 or (own - rank) // 2 == list(rows).index(row) % (n // 2)
