"""Receipts for `mindsora claims`: the same measurement, written to benchmarks/results/claim_NAME.json.

python benchmarks/claims.py suv-speed --model nano --frames 17 --height 64 --width 64 --device CPU
"""

import sys
from pathlib import Path

import receipt

from mindsora.audit import claims
from mindsora.cli import Parser
from mindsora.errors import InputError


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    claims.add_arguments(parser)
    try:
        args = parser.parse_args()
        claim = claims.find(args.name or "")
        found = claims.measured(claim, args)
    except InputError as error:
        sys.exit(f"error: {error}")
    args = claim.resolved(args)
    frames, height, width = claims.size_of(args)
    asked = {
        "claim": claim.text,
        "model": Path(args.model).name,
        "frames": frames,
        "height": height,
        "width": width,
        "device": args.device or "default",
    }
    receipt.write(f"claim_{claim.name.replace('-', '_')}", ("mindspore", "numpy"), asked | found)


if __name__ == "__main__":
    main()
