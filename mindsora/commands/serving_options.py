"""Options that the server and the studio share."""

import argparse
import warnings
from dataclasses import asdict
from pathlib import Path

from mindsora.commands import arguments
from mindsora.errors import InputError


def whole_numbers(text: str) -> list[int]:
    """0,1,2; a number may repeat."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers separated by commas, such as 0,1") from None


def add_serving(parser: argparse.ArgumentParser, port: int, folder: str) -> None:
    """The options that the functions below read; port, folder: the defaults."""
    parser.add_argument("--host", default="127.0.0.1", help="beyond localhost MINDSORA_TOKEN must be set")
    parser.add_argument("--port", type=int, default=port, metavar="N", help=f"(default: {port}; 0: any)")
    parser.add_argument("--folder", default=folder, metavar="DIR", help=f"queue and files (default: {folder})")
    parser.add_argument(
        "--devices", type=whole_numbers, metavar="N[,N...]", help="a model process on each card; on CPU, 0,0 makes two"
    )
    parser.add_argument("--queue", type=int, default=100, metavar="N", help="jobs that may wait (default: 100)")
    parser.add_argument(
        "--stalled-after",
        type=float,
        default=1800,
        metavar="SECONDS",
        help="a job fails whose process finishes no step for so long; compiling counts (default: 1800)",
    )
    dtypes = "float32, float16 or bfloat16; or transformer=bfloat16,vae=float32"
    parser.add_argument("--dtype", type=arguments.dtype, metavar="NAME", help=dtypes)
    parser.add_argument("--offload", action="store_true", help="as in `mindsora generate`")


def check(args: argparse.Namespace) -> None:
    """InputError for a value that cannot be."""
    if args.queue < 1:
        raise InputError(f"--queue {args.queue}: must be at least 1")
    if not 0 <= args.port < 2**16:
        raise InputError(f"--port {args.port}: must be from 0 to {2**16 - 1}")
    if not args.stalled_after > 0:
        raise InputError(f"--stalled-after {args.stalled_after:g}: must be above 0")
    if args.devices and args.device_id is not None:
        raise InputError("give either --devices or --device-id")
    if args.profile:
        raise InputError(f"--profile {args.profile}: trace a clip with `mindsora generate --profile`")
    warnings.simplefilter("ignore", UserWarning)  # of a request: its worker tells them to the client


def model_of(name: str) -> str:
    """A model's name, or its folder's whole path: workers change their folder."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def settings_of(args: argparse.Namespace, model: str) -> dict:
    """The settings of a worker that starts with this model."""
    return {
        "model": model,
        "reconstruct": False,
        "runtime": asdict(arguments.runtime_of(args)),
        "dtype": args.dtype,
        "offload": args.offload,
        "command": args.command,
    }


def devices_of(args: argparse.Namespace) -> list[int | None]:
    """A device number for each model process."""
    return args.devices or [args.device_id]
