"""`mindsora plan`: the cost of a clip before anything is loaded."""

import argparse
import json

from mindsora.audit.devices import DEVICES
from mindsora.audit.plan import describe, plan
from mindsora.commands import arguments
from mindsora.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument(
        "--model",
        default="nano",
        metavar="NAME|DIR",
        help="as in generate; v1.5, v1.3 and v1.3_i2v need no weights here",
    )
    arguments.add_size(parser, "--frames", "--num-frames")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="up to 1 halves the denoiser's work")
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="as in `mindsora generate`")
    parser.add_argument("--train", metavar="RECIPE.yaml", help="plan the training of a stage in its published layout")
    parser.add_argument(
        "--device", metavar="NAME", help=f"one of {', '.join(DEVICES)} (default: cpu, or 910b2 with --train)"
    )
    parser.add_argument("--dtype", type=arguments.dtype, metavar="NAME", help="as in `mindsora generate`")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print the plan; with --json also why a request is refused."""
    if args.train:
        _plan_training(args)
        return
    size = (args.num_frames, args.height, args.width)
    try:
        device = (args.device or "cpu").lower()
        costs = plan(args.model, size, device, args.dtype, args.steps, args.guidance_scale, args.tile)
    except InputError as error:
        if args.json:
            print(json.dumps({"legal": False, "error": str(error)}, indent=2))
        raise
    print(json.dumps(costs, indent=2) if args.json else describe(costs))


def _plan_training(args: argparse.Namespace) -> None:
    from mindsora.audit.plan_training import describe_training, plan_training
    from mindsora.train.recipe import load_stage

    costs = plan_training(load_stage(args.train), (args.device or "910b2").lower())
    print(json.dumps(costs, indent=2) if args.json else describe_training(costs))
