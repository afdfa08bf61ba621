"""`mindsora plan`: the cost of a clip before anything is loaded."""

import argparse
import json

from mindsora.audit.devices import DEVICES
from mindsora.audit.plan import describe, plan
from mindsora.audit.plan_parallel import describe_parallel, plan_parallel
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
    parser.add_argument(
        "--parallel",
        metavar="LAYOUT",
        help="several cards for one clip, such as cfg=2,cp=4; auto tries all with --cards; with --train, for one "
        "training, such as dp=2,cp=4,zero=3 (default: the published layout)",
    )
    parser.add_argument("--cards", type=int, metavar="N", help="cards of one clip, for --parallel auto")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print the plan; with --json also why a request is refused."""
    if args.train:
        _plan_training(args)
        return
    size = (args.num_frames, args.height, args.width)
    try:
        device = (args.device or "cpu").lower()
        costs = _plan(args, size, device)
    except InputError as error:
        if args.json:
            print(json.dumps({"legal": False, "error": str(error)}, indent=2))
        raise
    if args.json:
        print(json.dumps(costs, indent=2))
    else:
        print(describe(costs) + (f"\n{describe_parallel(costs)}" if "parallel" in costs else ""))


def _plan(args: argparse.Namespace, size: tuple[int | None, int | None, int | None], device: str) -> dict:
    if args.parallel is None and args.cards is not None:
        raise InputError(f"cards = {args.cards}: give --parallel auto too")
    asked = {"name_or_dir": args.model, "size": size, "device": device, "dtype": args.dtype, "steps": args.steps}
    asked |= {"guidance_scale": args.guidance_scale, "tile": args.tile}
    return plan(**asked) if args.parallel is None else plan_parallel(args.parallel, args.cards, **asked)


def _plan_training(args: argparse.Namespace) -> None:
    from mindsora.audit.plan_training import describe_training, plan_training
    from mindsora.train.recipe import load_stage

    costs = plan_training(load_stage(args.train), (args.device or "910b2").lower(), args.parallel)
    print(json.dumps(costs, indent=2) if args.json else describe_training(costs))
