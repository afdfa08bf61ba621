"""The recipes of v1.3: their own scripts on CPU with tiny models, one worker and two; the memory that they state."""

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image
from test_recipe_v1_5 import ROOT, run_script, videos

from mindsora import zoo
from mindsora.audit import memory
from mindsora.audit.plan import plan

MODELS = {"t2v": "v1.3", "i2v": "v1.3_i2v"}
SMALL = ["--num-frames", "5", "--height", "16", "--width", "32", "--steps", "2", "--jit", "off"]


@pytest.fixture(params=[pytest.param("t2v", marks=pytest.mark.full), "i2v"])
def recipe(request, tmp_path):
    """Task, run.sh, a tiny model, and the options that give the i2v model its frames."""
    model = tiny_pipeline.write_v1_3(tmp_path / "model", request.param)
    Image.fromarray(np.full((16, 32, 3), (200, 60, 20), np.uint8)).save(tmp_path / "first.png")
    given = ["--image", str(tmp_path / "first.png")] if request.param == "i2v" else []
    return request.param, ROOT / "recipes/v1_3" / request.param / "run.sh", str(model), given


def test_two_workers_make_what_one_makes(recipe, tmp_path):
    """Two workers make each of two prompts once, with the same names and frames as one worker."""
    _, script, model, given = recipe
    made = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        (folder / "prompts.txt").write_text("a red circle\na blue square\n")
        done = run_script(folder, "prompts.txt", *given, *SMALL, workers=workers, script=script, model=model)
        assert done.returncode == 0, done.stdout + done.stderr
        made.append(videos(folder))
    one, two = made
    assert sorted(one) == sorted(two) == ["video-000-1234.mp4", "video-001-1234.mp4"]  # config.yaml's seed
    for name in one:
        assert one[name].shape == (5, 16, 32, 3)  # the options override config.yaml
        np.testing.assert_array_equal(one[name], two[name])


def test_full_size_is_refused_for_the_tiny_model_and_usage_without_a_prompt(recipe, tmp_path):
    task, script, model, given = recipe
    done = run_script(tmp_path, "a red circle", *given, workers=1, script=script, model=model)
    assert done.returncode == 2 and "num_frames = 93" in done.stderr, done.stdout + done.stderr
    done = run_script(tmp_path, workers=1, script=script, model=model)
    assert done.returncode == 2 and done.stderr.endswith("DEVICE   Ascend (default) or CPU\n")
    assert ("--image FILE[@TIME]" in done.stderr) == (task == "i2v")


@pytest.mark.parametrize("task", MODELS)
def test_readme_states_what_the_planner_says(task):
    text = (ROOT / "recipes/v1_3" / task / "README.md").read_text()
    found = plan(MODELS[task], device="910b2")
    cells = memory.build(zoo.configuration(MODELS[task]), None, "Ascend")
    for name, part in found["memory"]["components"].items():
        count = sum(p.size for p in cells[name].get_parameters())
        gib = (f"{part[key] / 2**30:.2f}" for key in ("weights", "activations"))
        assert f"| {name} | {count:,} | {part['dtype']} | {' | '.join(gib)} |\n" in text
    for key in ("peak", "peak_offload"):
        assert f"{found['memory'][key] / 2**30:.2f}" in text.split("The peak is")[1], key
    assert f"{found['flops']['denoiser']['total'] / 1e12:.1f} TFLOP" in text
    config = (ROOT / "recipes/v1_3" / task / "config.yaml").read_text()
    clip = found["clip"]
    for key in ("height", "width", "steps", "guidance_scale"):
        assert f"{key}: {clip[key]}\n" in config
