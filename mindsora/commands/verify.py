"""`mindsora verify`: whether two checkpoints hold the same tensors, whatever their formats."""

import argparse

from mindsora.commands import arguments

LISTED = 20  # differences that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("a", help="checkpoint: a file, an index, or a folder")
    parser.add_argument("b", help="the other one")
    arguments.add_ema(parser)


def run(args: argparse.Namespace) -> int:
    """Print what differs; exit status 0 only when nothing does."""
    from mindsora.ckpt_convert.checkpoint import open_checkpoint
    from mindsora.ckpt_convert.comparison import compare

    with open_checkpoint(args.a, args.ema) as a, open_checkpoint(args.b, args.ema) as b:
        same, differences = compare(a, b)
    for difference in differences[:LISTED]:
        print(f"{difference.name}: {difference.what}")
    if len(differences) > LISTED:
        print(f"... and {len(differences) - LISTED} more")
    print(f"{same} tensors are the same, bit for bit; {len(differences)} are not")
    return 1 if differences else 0
