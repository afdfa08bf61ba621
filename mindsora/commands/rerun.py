"""`mindsora rerun`: make a file again from its manifest and compare."""

import argparse
import sys

from mindsora.audit.rerun import rerun
from mindsora.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("manifest", metavar="FILE.json", help="as `mindsora generate` wrote it")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="keep the new file here, and its manifest beside it (default: it is compared and dropped)",
    )
    parser.add_argument("--model", metavar="NAME|DIR", help="where the model is now (default: as the manifest says)")
    parser.add_argument(
        "--device",
        choices=arguments.DEVICES,
        type=arguments.one_of(arguments.DEVICES),
        help="default: as the manifest says",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Generate and compare; exit status 0 only if the first file is as it was written and the frames are identical."""
    result = rerun(args.manifest, args.output, args.model, args.device, args.quiet, args.command)
    for line in result.stack:
        print(line)
    if result.file != "as written":
        print(f"the file of {args.manifest} is {result.file}: only its frames' checksum can be compared")
    if result.identical:
        although = ", although the stack differs as listed" if result.stack else ""
        print(f"identical: frames sha256 {result.frames_sha256}{although}")
    else:
        stack = "the stack differs as listed" if result.stack else "on the same stack"
        print(f"not identical: {stack}" + (f"; {result.closeness}" if result.closeness else ""))
    if args.output:
        print(args.output)
    sys.stdout.flush()
    return 0 if result.identical and result.file == "as written" else 1
