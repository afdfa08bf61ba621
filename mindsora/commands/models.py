"""`mindsora models`: the models in the box, and the released folders of the line."""

import argparse
import json

from mindsora import zoo
from mindsora.audit.catalogue import boxed, describe, row
from mindsora.released import RELEASED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--all", action="store_true", help="every released folder, with memory, caveats and checks")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print the models."""
    if not args.json:
        print(describe(args.all))
        return
    rows = [row(entry, planned=args.all) for entry in RELEASED if args.all or entry.is_model]
    print(json.dumps({"in_the_box": [boxed(name) for name in zoo.in_the_box()], "released": rows}, indent=2))
