"""Measure how well the nano model obeys prompts; write a receipt, and every clip to docs/nano_obedience.png.

    python benchmarks/obedience.py

Runs `mindsora evaluate obedience` with the model's own settings on the 64 held-out prompts. The status is 1 if a share
is below its threshold; the receipt is written in any case.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import receipt

from mindsora import cli
from mindsora.evaluate import obedience

MODEL = "nano"
SHEET = receipt.ROOT / "docs" / "nano_obedience.png"


def evaluate(name: str, model: str, sheet: Path, *options: str) -> tuple[int, dict, float]:
    """Run an evaluation, with its frozen prompts unless `options` name others; write its contact sheet to `sheet`.

    Returns:
        Exit status (0 or 1), its results, seconds.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        status = cli.main(["evaluate", name, "--model", model, "--output", folder, "--device", "CPU", *options])
        if status > 1:
            sys.exit(status)
        results = json.loads((Path(folder) / "results.json").read_text())
        shutil.copyfile(Path(folder) / "contact_sheet.png", sheet)
    return status, results, round(time.perf_counter() - start, 1)


def wrong(clips: list[dict]) -> list[dict]:
    """The clips that do not show what their prompt asks for, and what they show."""
    found = []
    for clip in clips:
        differs = {
            name: clip["measured"][name] for name in obedience.ATTRIBUTES if clip["measured"][name] != clip[name]
        }
        if differs:
            found.append({key: clip[key] for key in ("task", "prompt", "seed") if key in clip} | {"measured": differs})
    return found


def main() -> int:
    status, results, seconds = evaluate("obedience", MODEL, SHEET)
    receipt.write(
        f"obedience_{MODEL}",
        ("mindspore", "numpy", "scipy"),
        {
            "model": MODEL,
            "clips": len(results["clips"]),
            "right_percent": {name: round(100 * share, 1) for name, share in results["shares"].items()},
            "thresholds": results["thresholds"],
            "wrong": wrong(results["clips"]),
            "seconds": seconds,
        },
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
