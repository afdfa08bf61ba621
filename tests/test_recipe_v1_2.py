"""The recipes of v1.2: their own scripts on CPU with tiny models, one worker and two; the memory that they state."""

import pytest
import tiny_pipeline
from recipe_checks import ROOT, check_readme, check_refusals, check_two_workers, recipe_of
from test_recipe_v1_5 import videos

from mindsora.audit.plan import plan

MODELS = {"t2v": "v1.2_93x720p", "i2v": "v1.2_93x480p_i2v"}
# Four steps, the least of PNDM; tiles that hold the whole clip, since the recipe's are for frames of the full size.
SMALL = ["--num-frames", "5", "--height", "16", "--width", "32", "--steps", "4", "--jit", "off"]


@pytest.fixture(params=MODELS)
def recipe(request, tmp_path):
    return recipe_of("v1_2", request.param, tiny_pipeline.write_v1_2, tmp_path)


@pytest.mark.full
def test_two_workers_make_what_one_makes(recipe, tmp_path):
    check_two_workers(recipe, tmp_path, SMALL)


def test_one_worker_makes_a_video(recipe, tmp_path):
    done = recipe.run(tmp_path, "a red circle", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    ((_, frames),) = videos(tmp_path).items()
    assert frames.shape == (5, 16, 32, 3)


def test_full_size_is_refused_for_the_tiny_model_and_usage_without_a_prompt(recipe, tmp_path):
    check_refusals(recipe, tmp_path)


@pytest.mark.parametrize("task", MODELS)
def test_readme_states_what_the_planner_says(task):
    text, found = check_readme(ROOT / "recipes/v1_2" / task, MODELS[task])
    tiled = plan(MODELS[task], device="910b2", tile=256)["memory"]["components"]["vae"]
    assert f"activations are {tiled['activations'] / 2**30:.2f} GiB" in text
    assert found["clip"]["evaluations"] == {"t2v": 100, "i2v": 109}[task]
