"""`mindsora serve`: video jobs over HTTP, in the form of OpenAI's interface."""

import argparse
from pathlib import Path

from mindsora import zoo
from mindsora.commands import arguments, serving_options
from mindsora.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--model", default="nano", metavar="NAME|DIR", help="see `mindsora models` (default: nano)")
    serving_options.add_serving(parser, port=8000, folder="outputs/serve")
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Serve until a signal: the first lets the jobs that are being made finish, the second ends at once."""
    serving_options.check(args)
    index, model = zoo.ModelIndex.read(zoo.find(args.model)), serving_options.model_of(args.model)
    from mindsora.serving.access import token_for

    token = token_for(args.host)
    try:
        from mindsora.serving.app import Metrics, create_app
        from mindsora.serving.program import listening, serve
    except ImportError as error:
        raise InputError(f"mindsora serve needs {error.name}: pip install 'mindsora[serve]'") from error
    from mindsora.serving.lanes import Lanes
    from mindsora.serving.store import Store

    metrics, listener = Metrics(), listening(args.host, args.port)
    store, settings = Store(Path(args.folder), args.queue), serving_options.settings_of(args, model)
    lanes = Lanes(store, settings, serving_options.devices_of(args), args.stalled_after, watch=metrics.watch())
    serve(create_app(store, lanes, metrics, model, index, args.host, token), listener)
    store.close()
