"""`mindsora train`: train from a recipe."""

import argparse

from mindsora.commands import arguments
from mindsora.runtime import is_msrun_scheduler


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="what to train; a run found in its folder is resumed")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument(
        "--reshuffle",
        action="store_true",
        help="resume a run that had another data.batch or optimizer.accumulate, with other batches from there on",
    )
    parser.add_argument(
        "--parallel", metavar="dp=N[,zero=Z]", help="of N processes under msrun; replaces the recipe's section parallel"
    )
    parser.add_argument("--overlay", metavar="FILE.yaml", help="more values that replace the recipe's")
    parser.add_argument(
        "--print", action="store_true", help="print the whole recipe, with its bases, and train nothing"
    )
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Read the recipe, start MindSpore, train."""
    from mindsora.train.recipe import load_recipe, written

    parallel = [f"parallel.{part}" for part in (args.parallel or "").split(",") if part]
    recipe = load_recipe(args.recipe, [*args.overrides, *parallel], args.overlay)
    if args.print:
        print(written(recipe), end="")
        return

    from mindsora.train import train

    runtime = arguments.runtime_of(args)
    runtime.apply()
    if is_msrun_scheduler():
        from mindsora.parallel.launch import serve

        serve()
        return
    with runtime.profiling():
        train(recipe, args.reshuffle)
