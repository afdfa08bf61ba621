"""Options that several commands share, and the types of their values."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import fields

from mindsora.errors import InputError
from mindsora.jobs.planning import parse_seeds
from mindsora.pipelines.given_files import GivenFiles
from mindsora.runtime import Runtime

DEVICES = ("Ascend", "CPU")
FITS = ("cover", "pad")
JIT = ("O0", "O1", "off")


def seeds(text: str) -> list[int]:
    """As `parse_seeds`."""
    try:
        return parse_seeds(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def dtype(text: str) -> str | dict[str, str]:
    """bfloat16, or transformer=bfloat16,vae=float32; in upper or lower case."""
    text = text.lower()
    if "=" not in text:
        return text
    return {name: value for name, _, value in (part.partition("=") for part in text.split(","))}


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """The type of an option with `choices`: a name in upper or lower case becomes the choice itself."""
    canonical = {choice.lower(): choice for choice in choices}
    return lambda text: canonical.get(text.lower(), text)


def add_size(parser: argparse.ArgumentParser, *frames: str) -> None:
    """num_frames, height and width of a clip; `frames` are the option's names."""
    parser.add_argument(*frames, dest="num_frames", type=int, metavar="N")
    parser.add_argument("--height", type=int, metavar="N")
    parser.add_argument("--width", type=int, metavar="N")


def add_ema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the moving average, or not (default: the average where the file has one)",
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """The options that `runtime_of` reads."""
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--device", choices=DEVICES, type=one_of(DEVICES), help="default: Ascend where there is one, else CPU"
    )
    group.add_argument("--device-id", type=int, metavar="N", help="card number (default: msrun's, else 0)")
    group.add_argument("--jit", choices=JIT, type=one_of(JIT), default="O0", help="graph optimisation (default: O0)")
    group.add_argument("--deterministic", action="store_true", help="use deterministic kernels")
    group.add_argument("--max-device-memory", metavar="56GB", help="upper limit of the device memory pool")
    group.add_argument("--allow-hf32", action="store_true", help="Ascend rounds float32 convolutions to HF32")
    group.add_argument("--profile", metavar="DIR", help="write a profiler trace to DIR")


def runtime_of(args: argparse.Namespace) -> Runtime:
    return Runtime(**{field.name: getattr(args, field.name) for field in fields(Runtime)})


def add_given(parser: argparse.ArgumentParser) -> None:
    """The options that `given_of` reads."""
    group = parser.add_argument_group("given frames, for models of the OpenSoraInpaint kind")
    group.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE[@TIME]",
        help="a picture that the video shows at TIME: a frame number (-1 is the last) or seconds such as 1.5s; "
        "without TIME the first frame, then the last; may stand several times",
    )
    group.add_argument("--video", metavar="FILE", help="a video to go on from: its end becomes the beginning")
    group.add_argument("--keep", type=int, metavar="N", help="frames of --video to keep (default: half a clip)")
    group.add_argument(
        "--size",
        choices=["from-image"],
        type=str.lower,
        help="height and width follow the first picture, as upstream's rule has it",
    )
    group.add_argument(
        "--fit",
        choices=FITS,
        type=one_of(FITS),
        help="what is of another size loses what sticks out, or gets black bars (default: cover)",
    )
    group.add_argument(
        "--noise-strength",
        type=float,
        metavar="X",
        help="0 to 1: noise on given frames; a little, such as 0.05, lets the video leave them",
    )


def given_of(args: argparse.Namespace) -> GivenFiles:
    from mindsora.pipelines.given_frames import parse_image

    images = tuple(parse_image(text) for text in args.image)
    if args.fit is not None and not (images or args.video):
        raise InputError(f"--fit {args.fit} says how a picture or a video is scaled; give --image or --video")
    return GivenFiles(images, args.video, args.keep, args.fit or "cover", args.noise_strength or 0.0)
