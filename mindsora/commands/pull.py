"""`mindsora pull`: download a published model and make its folder."""

import argparse
import sys

from mindsora.errors import InputError
from mindsora.hub import pull
from mindsora.hub.sources import SOURCES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("model", metavar="NAME", help="such as v1.5, v1.3 or v1.3_i2v; `mindsora models` lists them")
    parser.add_argument("--source", choices=tuple(SOURCES), default="huggingface", help="default: huggingface")
    parser.add_argument("--to", metavar="DIR", help="the model folder (default: where --model NAME finds it)")
    parser.add_argument("--revision", help="branch, tag or commit of the model's repository (default: its newest)")
    parser.add_argument(
        "--repository",
        action="append",
        default=[],
        metavar="OWNER/NAME=OWNER/NAME",
        help="a repository on Hugging Face, and its copy at the source",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be downloaded, and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> None:
    """Say what will be downloaded, ask, download, convert."""
    asked = pull(args.model, args.source, args.to, args.revision, dict(map(_pair, args.repository)))
    print("\n".join(asked.lines()), flush=True)
    if args.dry_run:
        return
    if not args.yes and not _agreed():
        raise InputError("nothing was downloaded: answer y, or say --yes")
    print(asked.run())


def _agreed() -> bool:
    if not sys.stdin or not sys.stdin.isatty():
        return False
    print("Download? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _pair(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or "/" not in ours or "/" not in theirs:
        raise InputError(f"--repository {text!r}: must be OWNER/NAME=OWNER/NAME")
    return ours, theirs
