"""`mindsora diff`: what differs between two manifests."""

import argparse

from mindsora.audit.diff import compare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("a", metavar="A.json", help="a manifest")
    parser.add_argument("b", metavar="B.json", help="the other one")


def run(args: argparse.Namespace) -> int:
    """Print what differs; exit status 0 only when nothing does but date, time and memory."""
    comparison = compare(args.a, args.b)
    print("\n".join(comparison.differences) or "request, text, shapes, stack and result are the same")
    if comparison.closeness:
        print(comparison.closeness)
    for line in comparison.costs:
        print(line)
    return 1 if comparison.differences else 0
