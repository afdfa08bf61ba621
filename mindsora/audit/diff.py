"""What differs between two manifests."""

from dataclasses import dataclass
from pathlib import Path

from mindsora import manifest
from mindsora.errors import InputError, shown

LONGEST = 1000  # characters of a value; a prompt has a few hundred
PARTS = ("request", "text", "shapes", "stack", "result")  # `run` and `cost` differ each time


@dataclass(frozen=True)
class Comparison:
    """What differs between two manifests.

    Attributes:
        differences: lines `part.name: a | b`; empty where both ask for the same and have the same result.
        closeness: how close the two clips are, in words; "" where the results are the same.
        costs: like `differences`, for time and memory.
    """

    differences: list[str]
    closeness: str
    costs: list[str]


def compare(path_a: str, path_b: str) -> Comparison:
    """Compare two manifests, and the clips beside them where the results differ.

    Raises:
        InputError: a file that is not a manifest.
    """
    a, b = manifest.read(path_a), manifest.read(path_b)
    lines = [line for part in PARTS for line in differences(a.get(part), b.get(part), part)]
    closeness = ""
    if any(line.startswith("result.") for line in lines):
        closeness = file_psnr(Path(path_a).with_name(a["file"]), Path(path_b).with_name(b["file"]))
    return Comparison(lines, closeness, differences(a.get("cost"), b.get("cost"), "cost"))


def differences(a, b, name: str = "") -> list[str]:
    """Lines `name.of.the.value: a | b` for all that differs in two trees of dicts."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            line for key in {**a, **b} for line in differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if a == b else [f"{shown(name, quote=False)}: {_told(a)} | {_told(b)}"]


def _told(value) -> str:
    return shown(value, LONGEST, quote=False)


def file_psnr(a: Path, b: Path) -> str:
    """How close two written clips are, in words. (Compares the frames in the files: mp4 has already lost a little.)"""
    from mindsora.media import psnr, read_video

    if missing := [path for path in (a, b) if not path.is_file()]:
        return f"{shown(missing[0].name)} is not there, so nothing can be said about how close it is"
    try:
        first, second = read_video(a)[0], read_video(b)[0]
    except InputError as error:
        return f"no PSNR: {error}"
    if first.shape != second.shape:
        return f"no PSNR: {first.shape} and {second.shape} are different shapes"
    return f"PSNR {psnr(first, second):.2f} dB between the files (100: equal)"
