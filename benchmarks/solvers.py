"""Measure how many denoising steps the solvers need: error of nano's latents, and obedience to prompts.

    python benchmarks/solvers.py [--steps 4 8 12 25 50] [--prompts 4] [--obedience 8 12 25]

Error: root mean square of the difference from DPM-Solver++(2M) in 200 steps, relative to the deviation of its latents,
over the first prompts of the held-out set, with the model's guidance. The row "euler 200" shows how far the two solvers
are apart at the reference. Obedience: shares of the 64 held-out prompts. `--obedience` without numbers keeps the shares
of the last receipt. Writes benchmarks/results/solvers.json.
"""

import argparse
import itertools
import json

import numpy as np
import receipt

from mindsora import TextToVideoPipeline
from mindsora.commands import arguments
from mindsora.evaluate import obedience
from mindsora.evaluate.measure import measure

NAME, MODEL, SOLVERS, REFERENCE = "solvers", "nano", ("euler", "dpmpp_2m"), 200


def latents(pipe, prompts: list[dict], solver: str, steps: int) -> np.ndarray:
    """(N, c, t, h, w) of the prompts, each from its own seed."""
    settings = options(pipe, solver, steps) | {"output_type": "latent"}
    return np.stack(obedience.generate(pipe, prompts, **settings))


def options(pipe, solver: str, steps: int) -> dict:
    """Arguments of a pipeline call."""
    return {"num_inference_steps": steps, "solver": None if solver == pipe.scheduler.solver else solver}


def errors(pipe, prompts: list[dict], counts: list[int]) -> list[dict]:
    """One row per solver and number of steps."""
    reference = latents(pipe, prompts, "dpmpp_2m", REFERENCE)
    rows = []
    for solver, steps in [*itertools.product(SOLVERS, counts), ("euler", REFERENCE)]:
        difference = latents(pipe, prompts, solver, steps) - reference
        error = float(np.sqrt((difference**2).mean()) / reference.std())
        rows.append({"solver": solver, "steps": steps, "relative_rms": round(error, 5)})
        print(rows[-1], flush=True)
    return rows


def obeyed(pipe, prompts: list[dict], counts: list[int]) -> list[dict]:
    """Shares of right attributes, in percent, per solver and number of steps."""
    rows = []
    for solver, steps in itertools.product(SOLVERS, counts):
        clips = obedience.generate(pipe, prompts, **options(pipe, solver, steps))
        shares = obedience.score(prompts, [measure(clip) for clip in clips])
        rows.append({"solver": solver, "steps": steps} | {k: round(100 * v, 1) for k, v in shares.items()})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 12, 25, 50])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--obedience", type=int, nargs="*", default=[8, 12, 25])
    arguments.add_runtime(parser)
    args = parser.parse_args()
    arguments.runtime_of(args).apply()
    pipe = TextToVideoPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    prompts = obedience.read_prompts()["prompts"]
    few = prompts[: args.prompts]
    numbers = {"model": MODEL, "prompts": len(few), "reference_steps": REFERENCE}
    numbers |= {"errors": errors(pipe, few, args.steps)}
    if args.obedience:
        numbers |= {"obedience": obeyed(pipe, prompts, args.obedience)}
    elif (before := receipt.RESULTS / f"{NAME}.json").is_file():
        numbers |= {"obedience": json.loads(before.read_text())["obedience"]}
    receipt.write(NAME, ("mindspore", "numpy"), numbers)


if __name__ == "__main__":
    main()
