"""Jobs: the plan of a run is checked before MindSpore starts; files appear one by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipeline
from PIL import Image

from mindsora import cli
from mindsora.errors import InputError
from mindsora.jobs import plan, run
from mindsora.jobs.planning import read_prompts
from mindsora.runtime import Runtime

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_job_for_every_prompt_and_seed(model, here):
    jobs = plan(model, ["a cat", "fog"], "v.mp4", seeds=[4, 5]).jobs
    assert [(job.prompt_number, *job.request.prompts, job.request.seed, job.path.name) for job in jobs] == [
        (0, "a cat", 4, "v-000-4.mp4"),
        (0, "a cat", 5, "v-000-5.mp4"),
        (1, "fog", 4, "v-001-4.mp4"),
        (1, "fog", 5, "v-001-5.mp4"),
    ]
    (job,) = plan(model, ["fog"], "v.mp4").jobs
    assert job.path == Path("v.mp4") and job.request.size == (9, 32, 48)


def test_a_picture_has_one_frame(model, here):
    (job,) = plan(model, ["fog"], "v.png").jobs
    assert job.request.size == (1, 32, 48)
    with pytest.raises(InputError, match="'v.png' must end in .mp4"):
        plan(model, ["fog"], "v.png", num_frames=9)


def test_ranks_share_the_prompts(model, here):
    shares = [plan(model, ["a", "b", "c"], "v.mp4", [0, 1], contact_sheet="s.png", rank=r, world=2) for r in range(2)]
    assert [[job.path.name for job in share.jobs] for share in shares] == [
        ["v-000-0.mp4", "v-000-1.mp4", "v-002-0.mp4", "v-002-1.mp4"],
        ["v-001-0.mp4", "v-001-1.mp4"],
    ]
    assert [share.sheet.name for share in shares] == ["s-rank0.png", "s-rank1.png"]
    assert {(share.prompts, share.seeds) for share in shares} == {(3, (0, 1))}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"height": 33}, "height = 33"),
        ({"overlap": 2}, "overlap = 2.*give duration"),
        ({"seeds": [-1]}, "seed = -1"),
        ({"contact_sheet": "v.jpg"}, "v.jpg"),
        ({"duration": 3}, "text alone"),
    ],
)
def test_a_plan_is_checked(model, here, options, words):
    with pytest.raises(InputError, match=words):
        plan(model, ["fog"], "v.mp4", **options)
    assert os.listdir(here) == []


def test_planning_starts_no_mindspore(model, here):
    code = f"""
import sys
from mindsora.jobs import plan
plan({model!r}, ["fog"], "v.mp4", contact_sheet=True)
print("mindspore" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_run_yields_each_file_when_it_is_written(model, here, capsys):
    """The files equal the command's; the callback sees every step; a run closed early leaves its written files."""
    steps = []
    planned = plan(model, ["fog"], "v.png", [0, 1], contact_sheet=True, num_inference_steps=2)
    for written in run(
        planned,
        Runtime(jit="off"),
        quiet=True,
        callback_on_step_end=lambda pipe, step, timestep, values: steps.append(step),
    ):
        assert written.path.is_file() and json.loads(written.manifest.read_text())["file"] == written.path.name
    assert written.job is None and written.path == Path("v-seeds.png")
    assert steps == [0, 1, 0, 1]
    files = {path.name: path.read_bytes() for path in here.glob("*.png")}
    assert files.keys() == {"v-000-0.png", "v-000-1.png", "v-seeds.png"}
    assert capsys.readouterr() == ("", "")
    options = ["--model", model, "--steps", "2", "--jit", "off", "--quiet"]
    assert cli.main(["generate", "fog", "--output", "v.png", "--seeds", "0-1", *options]) == 0
    assert files == {path.name: path.read_bytes() for path in here.glob("*.png")}

    sheet = plan(model, ["fog"], "m.mp4", num_frames=9, contact_sheet="m.webp", num_inference_steps=1)
    assert [written.path.name for written in run(sheet, Runtime(jit="off"), quiet=True)] == ["m.mp4", "m.webp"]
    with Image.open("m.webp") as moving:
        assert moving.n_frames == 9

    started = run(plan(model, ["fog"], "w.png", [0, 1], num_inference_steps=1), Runtime(jit="off"), quiet=True)
    assert next(started).path == Path("w-000-0.png")
    started.close()
    assert sorted(path.name for path in here.glob("w*")) == ["w-000-0.png", "w-000-0.png.json"]


def test_prompts_of_a_file(here):
    Path("prompts.txt").write_text("a cat\n\n  fog  \n")
    assert read_prompts("prompts.txt") == ["a cat", "fog"]
    # One prompt each, as editors on Windows and word processors leave them: a byte order mark, a form feed, U+2028.
    Path("prompts.txt").write_bytes("\ufeffa cat\x0csits\r\nfog\u2028rises\n".encode())
    assert read_prompts("prompts.txt") == ["a cat\x0csits", "fog\u2028rises"]
    os.mkfifo("pipe")  # opening it would wait for a writer
    for endless in ("/dev/zero", "pipe", "."):
        with pytest.raises(InputError, match="is not a file"):
            read_prompts(endless)
    Path("prompts.txt").write_text("fog\n" * 1001)
    with pytest.raises(InputError, match="1001 prompts: give 1 to 1000"):
        read_prompts("prompts.txt")
