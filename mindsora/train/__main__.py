"""Train from a recipe: `python -m mindsora.train RECIPE.yaml [--device CPU] [section.key=value ...]`."""

import argparse
import sys

from mindsora.errors import InputError
from mindsora.runtime import Runtime
from mindsora.train.recipe import load_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments that `run` reads."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="what to train; a run found in its folder is resumed")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    Runtime.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train. Returns the exit status; bad input raises InputError."""
    recipe = load_recipe(args.recipe, args.overrides)
    runtime = Runtime.from_arguments(args)
    runtime.apply()
    # MindSpore reads its environment when it is imported, so the trainings are imported only now.
    if recipe.task == "vae":
        from mindsora.train.vae import train_vae as train
    elif recipe.task == "inpaint":
        from mindsora.train.inpaint import train_inpaint as train
    else:
        from mindsora.train.denoiser import train_denoiser as train
    with runtime.profiling():
        train(recipe)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mindsora.train", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_intermixed_args())
    except InputError as error:
        print(f"mindsora: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
