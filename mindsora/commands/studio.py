"""`mindsora studio`: a page in the browser that makes clips."""

import argparse
from pathlib import Path

from mindsora.commands import arguments, serving_options
from mindsora.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--model", default="nano", metavar="NAME|DIR", help="for text to video (default: nano)")
    parser.add_argument(
        "--image-model",
        default="nano_i2v",
        metavar="NAME|DIR",
        help="for given frames and long video (default: nano_i2v)",
    )
    serving_options.add_serving(parser, port=7860, folder="outputs/studio")
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until a signal."""
    from mindsora.serving.access import token_for
    from mindsora.studio.requests import Models

    serving_options.check(args)
    text, image = serving_options.model_of(args.model), serving_options.model_of(args.image_model)
    models = Models(text, image, args.dtype)
    models.index(image).check_takes_frames(f"--image-model {args.image_model}")
    if models.index(text).takes_frames:
        raise InputError(f"--model {args.model} takes frames: give it as --image-model")
    token = token_for(args.host)
    try:
        from mindsora.serving.program import listening, serve
        from mindsora.studio.app import create_app
    except ImportError as error:
        raise InputError(f"mindsora studio needs {error.name}: pip install 'mindsora[studio]'") from error
    from mindsora.serving.lanes import Lanes
    from mindsora.serving.store import Store

    listener = listening(args.host, args.port)
    store = Store(Path(args.folder), args.queue)
    lanes = Lanes(store, serving_options.settings_of(args, text), serving_options.devices_of(args), args.stalled_after)
    serve(create_app(store, lanes, models, args.host, token), listener)
    store.close()
