"""What the recipes of v1.2 and v1.3 have in common: their own scripts on CPU with tiny models, and what READMEs state."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from test_recipe_v1_5 import ROOT, run_script, videos

from mindsora import zoo
from mindsora.audit import memory
from mindsora.audit.plan import plan


class Recipe(NamedTuple):
    """A recipe's script, with a tiny model and the options that give an i2v model its frames."""

    task: str
    script: Path
    model: str
    given: list[str]

    def run(self, folder: Path, *arguments: str, workers: int = 1):
        return run_script(folder, *arguments, *self.given, workers=workers, script=self.script, model=self.model)


def recipe_of(version: str, task: str, write, folder: Path) -> Recipe:
    """The recipe recipes/VERSION/TASK with the model that `write` makes."""
    model = write(folder / "model", task)
    Image.fromarray(np.full((16, 32, 3), (200, 60, 20), np.uint8)).save(folder / "first.png")
    given = ["--image", str(folder / "first.png")] if task == "i2v" else []
    return Recipe(task, ROOT / "recipes" / version / task / "run.sh", str(model), given)


def check_two_workers(recipe: Recipe, folder: Path, small: list[str]) -> None:
    """Two workers make each of two prompts once, with the same names and frames as one worker."""
    results = []
    for workers in (1, 2):
        place = folder / str(workers)
        place.mkdir()
        (place / "prompts.txt").write_text("a red circle\na blue square\n")
        done = recipe.run(place, "prompts.txt", *small, workers=workers)
        assert done.returncode == 0, done.stdout + done.stderr
        results.append(videos(place))
    one, two = results
    assert sorted(one) == sorted(two) == ["video-000-1234.mp4", "video-001-1234.mp4"]  # config.yaml's seed
    for name in one:
        assert one[name].shape == (5, 16, 32, 3)  # the options override config.yaml
        np.testing.assert_array_equal(one[name], two[name])


def check_refusals(recipe: Recipe, folder: Path) -> None:
    """Full size is refused for the tiny model; without a prompt the script shows its usage."""
    done = recipe.run(folder, "a red circle")
    assert done.returncode == 2 and "num_frames = 93" in done.stderr, done.stdout + done.stderr
    done = run_script(folder, workers=1, script=recipe.script, model=recipe.model)
    assert done.returncode == 2 and done.stderr.endswith("DEVICE   Ascend (default) or CPU\n")
    assert ("--image FILE[@TIME]" in done.stderr) == (recipe.task == "i2v")


def check_readme(folder: Path, model: str) -> tuple[str, dict]:
    """The README of a recipe states what the planner says; returns its text and the plan."""
    text, config = (folder / "README.md").read_text(), (folder / "config.yaml").read_text()
    found = plan(model, device="910b2")
    cells = memory.build(zoo.configuration(model), None, "Ascend")
    for name, part in found["memory"]["components"].items():
        count = sum(p.size for p in cells[name].get_parameters())
        gib = (f"{part[key] / 2**30:.2f}" for key in ("weights", "activations"))
        assert f"| {name} | {count:,} | {part['dtype']} | {' | '.join(gib)} |\n" in text
    for key in ("peak", "peak_offload"):
        assert f"{found['memory'][key] / 2**30:.2f}" in text.split("The peak is")[1], key
    assert f"{found['flops']['denoiser']['total'] / 1e12:.1f} TFLOP" in text
    for key in ("height", "width", "steps", "guidance_scale"):
        assert f"{key}: {found['clip'][key]}\n" in config
    return text, found
