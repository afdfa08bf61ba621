"""`mindsora claims`: what was published about the Open-Sora Plan line, and the command that measures it here."""

import argparse
import json

from mindsora.audit.claims import CLAIMS, Asked, find, measured, row
from mindsora.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="measure this claim (default: list all)")
    parser.add_argument("--model", metavar="NAME|DIR", help="see `mindsora models` (default: what the claim speaks of)")
    arguments.add_size(parser, "--frames", "--num-frames")
    parser.add_argument("--video", metavar="FILE", help="for vae-psnr: your clip, scaled and cut to the shape")
    parser.add_argument("--quality", type=float, metavar="X", help="for vbench-total: in percent")
    parser.add_argument("--semantic", type=float, metavar="X", help="for vbench-total: in percent")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="measurements of each kind (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_runtime(parser)


def asked_of(args: argparse.Namespace) -> Asked:
    """What a measurement needs to know."""
    return Asked(
        model=args.model,
        num_frames=args.num_frames,
        height=args.height,
        width=args.width,
        video=args.video,
        quality=args.quality,
        semantic=args.semantic,
        repeats=args.repeats,
        runtime=arguments.runtime_of(args),
    )


def run(args: argparse.Namespace) -> None:
    """List the claims, or measure one."""
    asked = asked_of(args)
    if args.name is not None:
        _measure(args.name, asked, args.json)
        return
    rows = [row(claim, asked) for claim in CLAIMS]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    for number, fields in enumerate(rows):
        name = fields.pop("name")
        print("\n" * bool(number) + name)
        print("\n".join(f"  {key:10} {value}" for key, value in fields.items()))


def _measure(name: str, asked: Asked, as_json: bool) -> None:
    claim = find(name)
    result = measured(claim, asked)
    fields = row(claim, asked) | {"measured": result}
    if as_json:
        print(json.dumps(fields, indent=2))
        return
    print(
        f"claimed   {claim.text}\nbounds    {claim.bounds}\ncounted   {fields['arithmetic']}\n"
        f"measured  {result['summary']}"
    )
