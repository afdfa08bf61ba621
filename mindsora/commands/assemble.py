"""`mindsora assemble`: make the folder of a published model from files that were copied by hand."""

import argparse

from mindsora.hub import assemble


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("model", metavar="NAME", help="such as v1.5, v1.3 or v1.3_i2v; `mindsora models` lists them")
    parser.add_argument(
        "--from",
        dest="copied",
        required=True,
        metavar="DIR",
        help="folder with a copy of each repository, named like it: Open-Sora-Plan-v1.5.0, t5-v1_1-xl, ...",
    )
    parser.add_argument("--to", metavar="DIR", help="the model folder (default: where --model NAME finds it)")


def run(args: argparse.Namespace) -> None:
    """Convert and copy; print a line for each component, then the folder."""
    print(assemble(args.model, args.copied, args.to))
