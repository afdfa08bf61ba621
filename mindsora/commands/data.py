"""`mindsora data`: annotation files for training on own clips, and what a recipe makes of them."""

import argparse
from dataclasses import replace

from mindsora.errors import InputError, shown

ACTIONS = {
    "scan": "write annotations.jsonl and merge.txt for a FOLDER of videos and pictures with captions beside them",
    "check": "filter a MERGE_FILE as --recipe does and read the end of every clip; status 1 if some cannot be read",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"  {name:6} {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, help="one of those below")
    parser.add_argument("path", metavar="FOLDER|MERGE_FILE")
    parser.add_argument("--output", metavar="DIR", help="scan: where to write the two files (default: FOLDER)")
    parser.add_argument("--recipe", metavar="RECIPE.yaml", help="check: the recipe to train with")
    parser.add_argument("--sheet", metavar="FILE", help="check: a contact sheet of what the model sees: .png or .webp")
    parser.add_argument("--cards", type=int, default=1, metavar="N", help="check: that share the data (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Call the action and print what it found."""
    return (_scan if args.action == "scan" else _check)(args)


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
