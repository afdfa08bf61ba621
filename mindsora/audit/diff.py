"""`mindsora diff`: what two manifests do not have in common."""

import argparse
from pathlib import Path

from mindsora import manifest
from mindsora.errors import InputError

PARTS = ("request", "text", "shapes", "stack", "result")  # `run` and `cost` differ each time


def differences(a, b, name: str = "") -> list[str]:
    """Lines `name.of.the.value: a | b` for all that differs in two trees of dicts."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            line for key in {**a, **b} for line in differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if a == b else [f"{name}: {a} | {b}"]


def file_psnr(a: Path, b: Path) -> str:
    """How close two written clips are, in words. (Of the files' frames: mp4 has lost a little already.)"""
    from mindsora.media import psnr, read_video

    if missing := [path for path in (a, b) if not path.is_file()]:
        return f"{missing[0].name!r} is not there, so nothing can be said about how close it is"
    try:
        first, second = read_video(a)[0], read_video(b)[0]
    except InputError as error:
        return f"no PSNR: {error}"
    if first.shape != second.shape:
        return f"no PSNR: {first.shape} and {second.shape} are different shapes"
    return f"PSNR {psnr(first, second):.2f} dB between the files (100: equal)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options that `run` reads."""
    parser.add_argument("a", metavar="A.json", help="a manifest")
    parser.add_argument("b", metavar="B.json", help="the other one")


def run(args: argparse.Namespace) -> int:
    """Print what differs; exit status 0 only when nothing does but date, time and memory."""
    a, b = manifest.read(args.a), manifest.read(args.b)
    found = [line for part in PARTS for line in differences(a.get(part), b.get(part), part)]
    print("\n".join(found) or "request, text, shapes, stack and result are the same")
    if any(line.startswith("result.") for line in found):
        print(file_psnr(*(Path(path).with_name(told.get("file", "")) for path, told in ((args.a, a), (args.b, b)))))
    for line in differences(a.get("cost"), b.get("cost"), "cost"):
        print(line)
    return 1 if found else 0
