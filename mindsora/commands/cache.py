"""`mindsora cache`: what is kept on disk between runs; --clear removes it."""

import argparse

from mindsora.audit.caches import KINDS, caches, clear


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument(
        "--clear", choices=(*KINDS, "all"), help="remove graphs, kernels or both; later runs make them again"
    )


def run(args: argparse.Namespace) -> None:
    """Print a line for each kind."""
    if args.clear is None:
        print("\n".join(cache.line() for cache in caches()))
        return
    for cache in clear(tuple(KINDS) if args.clear == "all" else (args.clear,)):
        print(f"removed {cache.line()}")
