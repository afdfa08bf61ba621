"""`mindsora serve`: video jobs over HTTP, in the form of OpenAI's interface."""

import argparse
import warnings
from dataclasses import asdict
from pathlib import Path

from mindsora import zoo
from mindsora.commands import arguments
from mindsora.errors import InputError


def whole_numbers(text: str) -> list[int]:
    """0,1,2; a number may repeat."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers separated by commas, such as 0,1") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--model", default="nano", metavar="NAME|DIR", help="see `mindsora models` (default: nano)")
    parser.add_argument("--host", default="127.0.0.1", help="beyond localhost MINDSORA_TOKEN must be set")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="(default: 8000; 0: any)")
    parser.add_argument(
        "--folder", default="outputs/serve", metavar="DIR", help="queue and files (default: outputs/serve)"
    )
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
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Serve until a signal: the first lets the jobs that are being made finish, the second ends at once."""
    policy = arguments.runtime_of(args)
    if args.queue < 1:
        raise InputError(f"--queue {args.queue}: must be at least 1")
    if not 0 <= args.port < 2**16:
        raise InputError(f"--port {args.port}: must be from 0 to {2**16 - 1}")
    if not args.stalled_after > 0:
        raise InputError(f"--stalled-after {args.stalled_after:g}: must be above 0")
    if args.devices and args.device_id is not None:
        raise InputError("give either --devices or --device-id")
    index = zoo.ModelIndex.read(zoo.find(args.model))
    model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model  # workers change their folder
    from mindsora.serving.access import token_for

    token = token_for(args.host)
    try:
        from mindsora.serving.app import Metrics, create_app
        from mindsora.serving.program import listening, serve
    except ImportError as error:
        raise InputError(f"mindsora serve needs {error.name}: pip install 'mindsora[serve]'") from error
    from mindsora.serving.lanes import Lanes
    from mindsora.serving.store import Store

    warnings.simplefilter("ignore", UserWarning)  # of a request: its worker tells them to the client
    metrics = Metrics()
    settings = {
        "model": model,
        "reconstruct": False,
        "runtime": asdict(policy),
        "dtype": args.dtype,
        "offload": args.offload,
        "command": args.command,
    }
    listener = listening(args.host, args.port)
    store = Store(Path(args.folder), args.queue)
    devices = args.devices or [args.device_id]
    lanes = Lanes(store, settings, devices, args.stalled_after, watch=metrics.watch())
    serve(create_app(store, lanes, metrics, model, index, args.host, token), listener)
    store.close()
