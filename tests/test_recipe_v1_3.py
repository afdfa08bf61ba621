"""The recipes of v1.3: their own scripts on CPU with tiny models, one worker and two; the memory that they state."""

import pytest
import tiny_pipeline
from recipe_checks import ROOT, check_readme, check_refusals, check_two_workers, recipe_of

MODELS = {"t2v": "v1.3", "i2v": "v1.3_i2v"}
SMALL = ["--num-frames", "5", "--height", "16", "--width", "32", "--steps", "2", "--jit", "off"]


@pytest.fixture(params=[pytest.param("t2v", marks=pytest.mark.full), "i2v"])
def recipe(request, tmp_path):
    return recipe_of("v1_3", request.param, tiny_pipeline.write_v1_3, tmp_path)


def test_two_workers_make_what_one_makes(recipe, tmp_path):
    check_two_workers(recipe, tmp_path, SMALL)


def test_full_size_is_refused_for_the_tiny_model_and_usage_without_a_prompt(recipe, tmp_path):
    check_refusals(recipe, tmp_path)


@pytest.mark.parametrize("task", MODELS)
def test_readme_states_what_the_planner_says(task):
    check_readme(ROOT / "recipes/v1_3" / task, MODELS[task])
