"""Pipelines, training, our own operators and commands on the simulated Ascend."""

import json

import pytest

from ascend_sim.groups import PROGRAMS, outcome
from ascend_sim.simulation import python, require

pytestmark = pytest.mark.full


@pytest.mark.parametrize("case", [case for group in PROGRAMS for case in group])
def test_compiles(case):
    assert not outcome(case)["error"]


@pytest.mark.parametrize("case", ["image_to_video", pytest.param("text_to_video_offload", marks=pytest.mark.slow)])
def test_pipelines_give_frames(case):
    assert not outcome(case)["error"]
    assert outcome(case)["figures"]["shape"] == [1, 9, 32, 32, 3]


def test_float32_is_not_rounded_to_hf32():
    # CANN's default for convolutions is "1".
    assert outcome("hf32")["figures"] == {"conv": "0", "matmul": "0"}


def test_generate_is_deterministic_and_keeps_its_graphs(tmp_path):
    """The whole command, twice: the second time its graphs come from the folder."""
    require()
    options = ("--steps", "1", "--num-frames", "9", "--height", "32", "--width", "32", "--quiet")
    halves = "transformer=float16,text_encoder=float16,text_encoder_2=float16"
    for _ in range(2):
        done = python(
            "-m", "mindsora.cli", "generate", "a red circle", "--output", "clip.mp4", "--deterministic",
            "--compile-cache", "graphs", "--dtype", halves, *options, folder=tmp_path,
        )  # fmt: skip
        assert not done.returncode, done.stderr[-2000:]
        assert len(list((tmp_path / "graphs").iterdir())) == 1
    stack = json.loads((tmp_path / "clip.mp4.json").read_text())["stack"]
    assert stack["device"]["name"] == "Ascend"
    assert stack["runtime"]["deterministic"] and not stack["runtime"]["allow_hf32"]
    assert stack["dtypes"]["transformer"].startswith("float16") and stack["dtypes"]["vae"] == "float32"


def test_bring_up_runs_to_its_end(tmp_path):
    require()
    done = python("-m", "mindsora.cli", "doctor", "--bringup", "--receipt", "told.json", folder=tmp_path)
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["simulated"] and not told["measured"]
    assert not any(step["failure"] for step in told["steps"].values())
    assert set(told["steps"]["cells"]["found"].values()) == {"not computed"}
