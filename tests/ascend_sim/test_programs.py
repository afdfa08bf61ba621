"""Pipelines, training, our own operators and commands on the simulated Ascend."""

import json
import subprocess
import sys

import pytest

from ascend_sim import operator_package, primitives
from ascend_sim.groups import PROGRAMS, outcome
from ascend_sim.simulation import TESTS, python, require
from ascend_sim.stand_ins import environment

pytestmark = pytest.mark.full


@pytest.mark.parametrize("case", [case for group in PROGRAMS for case in group])
def test_compiles(case):
    assert not outcome(case)["error"]


def test_primitives_of_training_are_those_of_the_table():
    models = primitives.read()["models"]
    assert primitives.kernels(primitives.TRAINING["training step"]) == models["training step"]


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


def test_recipe_of_the_operators_runs_to_its_end(tmp_path):
    """`run.sh` builds and installs with a stand-in for CANN's project; the benchmark then calls each operator eagerly,
    forward and backward. MindSpore launches nothing in simulation, so that no operator misses its binary."""
    require()
    package = operator_package.install(tmp_path / "package")
    installer = f'folder="${{1#--install-path=}}/vendors" && mkdir -p "$folder" && cp -r {package} "$folder/mindsora"'
    cann = operator_package.skeleton(tmp_path / "cann", installer)
    env = environment() | {"PYTHON": sys.executable, "PYTHONPATH": str(TESTS.parent)}
    env |= {"ASCEND_HOME_PATH": str(cann), "OPP": str(tmp_path / "opp"), "OUTPUT": str(tmp_path / "build")}
    for name in ("mindsora", "recipes", "benchmarks"):  # MindSpore leaves files where it runs
        (tmp_path / name).symlink_to(TESTS.parent / name)
    done = subprocess.run(
        ["bash", "recipes/ascend_kernels/run.sh", "--tokens", "96", "--text", "7", "--heads", "2", "--repeats", "1"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    called = [line for line in done.stdout.splitlines() if line.startswith("not computed")]
    for operator in ("skiparse_permute", "qk_norm_rope", "ada_norm_modulate", "gated_residual", "skiparse_attention"):
        for dtype in ("Float16", "BFloat16"):
            assert any(operator in line and line.endswith(f" {dtype}") for line in called), (operator, dtype)
    assert not (TESTS.parent / "benchmarks" / "results" / "ascend_kernels.json").exists()
