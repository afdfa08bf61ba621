"""The Atlas recipe's own script on CPU, with the nano model and two workers."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindsora.media import read_video

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "recipes" / "v1_5" / "t2v_121x576x1024" / "run.sh"
SMALL = ["--num-frames", "9", "--height", "64", "--width", "64", "--steps", "2", "--jit", "off"]
PROMPTS = ["a red circle moving right", "a blue square moving up", "a green triangle growing"]


def run_script(
    folder: Path, *arguments: str, workers: int, script: Path = SCRIPT, model: str = "nano"
) -> subprocess.CompletedProcess:
    """A recipe's run.sh with an installed `mindsora` on the PATH, which is this checkout's."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    program = f"#!{sys.executable}\nfrom mindsora.cli import main\n\nraise SystemExit(main())\n"
    (programs / "mindsora").write_text(program)
    (programs / "mindsora").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "DEVICE": "CPU", "MODEL": model, "WORKERS": str(workers), "OUTPUT": "videos", "MASTER_PORT": str(port),
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.run([script, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def videos(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_video(path)[0] for path in sorted((folder / "videos").glob("*.mp4"))}


@pytest.mark.full
def test_two_workers_make_what_one_makes(tmp_path):
    """Two workers make each of three prompts once, with the same names and frames as one worker."""
    results = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        done = run_script(folder, "prompts.txt", *SMALL, workers=workers)
        assert done.returncode == 0, done.stdout + done.stderr
        results.append(videos(folder))
    one, two = results
    assert len(one) == 3 and one.keys() == two.keys()
    for name in one:
        assert one[name].shape == (9, 64, 64, 3)  # the options override config.yaml
        np.testing.assert_array_equal(one[name], two[name])
    logs = [(tmp_path / "2" / "videos" / "logs" / f"worker_{i}.log").read_text() for i in (0, 1)]
    assert all(f"rank {i} of 2" in log for i, log in enumerate(logs))


def test_full_size_is_refused_for_the_nano_model(tmp_path):
    """Without options the sizes of config.yaml apply, and the nano model cannot make them."""
    done = run_script(tmp_path, PROMPTS[0], workers=1)
    assert done.returncode == 2 and "num_frames = 121" in done.stderr, done.stdout + done.stderr


def test_usage_without_a_prompt(tmp_path):
    done = run_script(tmp_path, workers=1)
    assert done.returncode == 2 and "run.sh PROMPT|FILE" in done.stderr
