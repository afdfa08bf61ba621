"""A call in a user's own program, where GLOG_v is not set, prints no line of MindSpore; and no bar with TQDM_DISABLE.

test_notebook.py asserts the same of a notebook with a model of v1.5.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipeline

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
import numpy as np
import mindsora
pipe = mindsora.ImageToVideoPipeline.from_pretrained(sys.argv[1])
pipe(prompt="a cat", images=[(np.zeros((32, 48, 3), np.uint8), 0)], num_frames=int(sys.argv[2]), num_inference_steps=4)
"""


@pytest.mark.full
@pytest.mark.parametrize(
    "write, frames", [(tiny_pipeline.write_v1_3, 17), (tiny_pipeline.write_v1_2, 9)], ids=["v1.3", "v1.2"]
)
def test_a_program(tmp_path, write, frames):
    environment = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
    environment |= {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", PROGRAM, str(write(tmp_path / "model", "i2v")), str(frames)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert all(line.startswith("compiled the ") for line in done.stdout.splitlines()), done.stdout
