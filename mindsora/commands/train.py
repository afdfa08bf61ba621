"""`mindsora train`: train from a recipe."""

import argparse

from mindsora.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="what to train; a run found in its folder is resumed")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument(
        "--reshuffle",
        action="store_true",
        help="resume a run that had another data.batch or optimizer.accumulate, with other batches from there on",
    )
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Read the recipe, start MindSpore, train."""
    from mindsora.train import train
    from mindsora.train.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    runtime = arguments.runtime_of(args)
    runtime.apply()
    with runtime.profiling():
        train(recipe, args.reshuffle)
