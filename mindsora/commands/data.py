"""`mindsora data`: annotation files for training on own clips, what a recipe makes of them, a cache of their features."""

import argparse
from dataclasses import replace

from mindsora.commands import arguments
from mindsora.errors import InputError, shown

ACTIONS = {
    "scan": "write annotations.jsonl and merge.txt for a FOLDER of videos and pictures with captions beside them",
    "check": "filter a MERGE_FILE as --recipe does and read the end of every clip; status 1 if some cannot be read",
    "cache": "encode the clips and texts of --recipe once, into the folder of its key `cache`",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"  {name:6} {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, help="one of those below")
    parser.add_argument(
        "values",
        nargs="*",
        metavar="FOLDER|MERGE_FILE|section.key=value",
        help="scan, check: what to read; cache: values that replace the recipe's",
    )
    parser.add_argument("--output", metavar="DIR", help="scan: where to write the two files (default: FOLDER)")
    parser.add_argument("--recipe", metavar="RECIPE.yaml", help="check, cache: the recipe to train with")
    parser.add_argument("--sheet", metavar="FILE", help="check: a contact sheet of what the model sees: .png or .webp")
    parser.add_argument("--cards", type=int, default=1, metavar="N", help="check: that share the data (default: 1)")
    parser.add_argument("--overlay", metavar="FILE.yaml", help="cache: more values that replace the recipe's")
    parser.add_argument(
        "--part", type=_part, default=(0, 1), metavar="K/N", help="cache: the K-th of N processes that share the work"
    )
    arguments.add_runtime(parser)


def _part(text: str) -> tuple[int, int]:
    """K/N, K from 1, as (number from 0, number of parts)."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{shown(text)}: must be K/N with K from 1 to N, such as 1/4")
    return int(part) - 1, int(parts)


def run(args: argparse.Namespace) -> int:
    """Call the action and print what it found."""
    if args.action != "cache":
        if len(args.values) != 1:
            raise InputError(f"`mindsora data {args.action}` reads one folder or file, not {len(args.values)}")
        (args.path,) = args.values
    return {"scan": _scan, "check": _check, "cache": _cache}[args.action](args)


def _scan(args: argparse.Namespace) -> int:
    from mindsora.data.scan import scan

    result = scan(args.path, args.output)
    for message in result.skipped:
        print(f"skipped: {message}")
    print(f"{len(result.records)} clips, {len(result.skipped)} files skipped; wrote {result.merge_file}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from mindsora.data.check import check
    from mindsora.data.settings import VideoData
    from mindsora.train.recipe import load_recipe

    if args.recipe is None:
        raise InputError("`mindsora data check` needs --recipe RECIPE.yaml, whose sizes and rules apply")
    if args.cards < 1:
        raise InputError(f"--cards {args.cards}: must be at least 1")
    recipe = load_recipe(args.recipe)
    if not isinstance(recipe.data, VideoData):
        raise InputError(f"{shown(args.recipe)} trains on drawn clips, which need no annotation files")
    report = check(replace(recipe.data, merge_file=args.path), recipe.line, args.sheet, args.cards)
    print("\n".join(report.lines()))
    return int(bool(report.unreadable))


def _cache(args: argparse.Namespace) -> int:
    from mindsora.train.recipe import load_stage

    if args.recipe is None:
        raise InputError("`mindsora data cache` needs --recipe RECIPE.yaml, a stage's")
    recipe = load_stage(args.recipe, args.values, args.overlay)
    if recipe.cache is None:
        raise InputError("the recipe has no cache: give cache=FOLDER, to this command and to the training")
    arguments.runtime_of(args).apply()

    from mindsora.train.methods.stage import fill_cache

    counts = fill_cache(recipe, *args.part)
    print(f"{recipe.cache}: {', '.join(f'{count} {name}' for name, count in counts.items())} new")
    return 0
