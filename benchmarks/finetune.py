"""Measure what a LoRA teaches the nano model and what it costs the old prompts; write a receipt and two contact sheets.

    python benchmarks/finetune.py [--lora FILE]

Writes 24 clips of orange objects, runs `mindsora finetune` on them as recipes/finetune/run.sh does, and evaluates nano
before and after on the 32 prompts of `mindsora evaluate orange` and on the 64 of `obedience`. With --lora it evaluates that
file instead of training one, and keeps the training's numbers of the last receipt. All clips are measured with orange among
the colours, so that a red object that turns orange counts as wrong.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import receipt
from obedience import evaluate, wrong  # benchmarks/obedience.py

from mindsora.ckpt_convert.lora import FILE
from mindsora.evaluate import obedience, orange

NAME, DOCS, RECIPE = "finetune_nano", receipt.ROOT / "docs", receipt.ROOT / "recipes" / "finetune"


def train(folder: Path) -> tuple[Path, dict]:
    """Make the clips and the LoRA. Returns the file and what it took."""
    subprocess.run([sys.executable, str(RECIPE / "make_clips.py"), str(folder / "clips")], check=True)
    command = [sys.executable, "-m", "mindsora.cli", "finetune", "--model", "nano", "--device", "CPU"]
    start, before = time.perf_counter(), os.times()
    command += ["--data", str(folder / "clips"), "--keep", str(RECIPE / "keep.txt"), "--output", str(folder / "lora")]
    subprocess.run(command, check=True)
    seconds, after = time.perf_counter() - start, os.times()
    processor = sum(after[2:4]) - sum(before[2:4])  # of child processes
    log = (folder / "lora" / "training" / "log.jsonl").read_text().splitlines()
    taken = {"minutes": round(seconds / 60, 1), "processor_minutes": round(processor / 60, 1)}
    return folder / "lora" / FILE, taken | {"steps": json.loads(log[-1])["step"], "clips": 24}


def measured(prompts: Path, sheet: Path, lora: Path | None) -> dict:
    """Shares of right values of the clips of a prompt file, in percent, with orange among the colours."""
    more = ("--lora", str(lora)) if lora else ()
    _, results, seconds = evaluate("orange", "nano", sheet, "--prompts", str(prompts), *more)
    shares = {attribute: round(100 * share, 1) for attribute, share in results["shares"].items()}
    return {
        "clips": len(results["clips"]),
        "right_percent": shares,
        "wrong": wrong(results["clips"]),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.lora:
            lora, training = asked.lora, json.loads((receipt.RESULTS / f"{NAME}.json").read_text())["training"]
        else:
            lora, training = train(folder)
            shutil.copy(lora, RECIPE / "orange.safetensors")
        numbers = {"training": training, "lora_bytes": lora.stat().st_size}
        for when, file in (("after", lora), ("before", None)):
            numbers[f"new_{when}"] = measured(orange.PROMPTS, DOCS / f"finetune_{when}.png", file)
            numbers[f"old_{when}"] = measured(obedience.PROMPTS, folder / "sheet.png", file)
    old = [numbers[f"old_{when}"]["right_percent"] for when in ("before", "after")]
    numbers["points_lost"] = {name: round(old[0][name] - old[1][name], 1) for name in old[0]}
    receipt.write(NAME, ("mindspore", "numpy", "scipy"), {"prompts": orange.PROMPTS.name} | numbers)


if __name__ == "__main__":
    main()
