"""`mindsora inspect`: what a checkpoint is, without executing anything in it."""

import argparse

from mindsora.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("source", help="checkpoint: a file, an index, or a folder")
    parser.add_argument("--hash", action="store_true", help="name, dtype, shape and sha256 of every tensor")
    arguments.add_ema(parser)


def run(args: argparse.Namespace) -> None:
    """Print the description and, with --hash, one line for every tensor."""
    from mindsora.ckpt_convert.checkpoint import open_checkpoint
    from mindsora.ckpt_convert.inspection import describe

    with open_checkpoint(args.source, args.ema) as checkpoint:
        print(describe(checkpoint))
        if args.hash:
            for name, entry in checkpoint.items():
                print(f"{entry.sha256()}  {entry.dtype}  {list(entry.shape)}  {name}")
