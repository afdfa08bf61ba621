"""Every stage of a line in order on CPU: `rehearse.sh`, on real videos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_stage_recipes import LINES

from mindsora.config import read_json

ROOT = Path(__file__).parents[1]
RESULTS = {"v1_5": ("video_5", "rabbit.mp4"), "v1_3": ("i2v_2", "bikes.mp4")}


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_all_stages_of_a_line_train_one_after_the_other(line, tmp_path):
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, arguments in {"mindsora": "-m mindsora.cli", "python": ""}.items():  # of this environment and this folder
        (bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (bin / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "out"
    subprocess.run([ROOT / "recipes" / line / "train" / "rehearse.sh", folder], env=environment, check=True)
    for stage in LINES[line]:
        out = folder / "outputs" / line / stage
        rows = [json.loads(row) for row in (out / "log.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 4 and all(0 < row["loss"] < 10 for row in rows if "loss" in row), stage
        assert read_json(out / "model" / "model_index.json")["num_frames"] >= 1, stage
    last, video = RESULTS[line]
    assert (folder / video).stat().st_size > 1000 and (folder / "outputs" / line / last / "model").is_dir()
