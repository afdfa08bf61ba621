"""Write the measurement of `mindsora claims` as a receipt, benchmarks/results/claim_NAME.json.

python benchmarks/claims.py suv-speed --model nano --frames 17 --height 64 --width 64 --device CPU
"""

import sys
from pathlib import Path

import receipt

from mindsora.audit import claims
from mindsora.cli import Parser
from mindsora.commands.claims import add_arguments, asked_of
from mindsora.errors import InputError


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    try:
        args = parser.parse_args()
        claim, asked = claims.find(args.name or ""), asked_of(args)
        result = claims.measured(claim, asked)
    except InputError as error:
        sys.exit(f"error: {error}")
    asked = claim.resolved(asked)
    about = {
        "claim": claim.text,
        "model": Path(asked.model).name,
        "frames": asked.num_frames,
        "height": asked.height,
        "width": asked.width,
        "device": asked.runtime.device or "default",
    }
    receipt.write(f"claim_{claim.name.replace('-', '_')}", ("mindspore", "numpy"), about | result)


if __name__ == "__main__":
    main()
