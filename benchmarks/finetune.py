"""Measure what a LoRA teaches the nano model and what it costs the old prompts; write a receipt and two contact sheets.

    python benchmarks/finetune.py [train] [before] [after]

Writes 24 clips of orange objects, runs `mindsora finetune` on them as recipes/finetune/run.sh does, and evaluates nano
before and after on the 32 prompts of `mindsora evaluate orange` and on the 64 of `obedience`. Parts can run one at a time;
the receipt keeps the numbers of the others. All clips are measured with orange among the colours, so that a red object that
turns orange counts as wrong.
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
from mindsora.data.toy import orange as orange_clips
from mindsora.evaluate import obedience, orange

NAME, DOCS, RECIPE = "finetune_nano", receipt.ROOT / "docs", receipt.ROOT / "recipes" / "finetune"
LORA = RECIPE / "orange.safetensors"
OPTIONS = ("--steps", "900", "--targets", "add_q_proj,add_k_proj,add_v_proj,to_add_out")  # as in run.sh


def train() -> dict:
    """Make the clips and the LoRA in the repository. Returns what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([sys.executable, str(RECIPE / "make_clips.py"), str(folder / "clips")], check=True)
        start, before = time.perf_counter(), os.times()
        command = [sys.executable, "-m", "mindsora.cli", "finetune", "--model", "nano", "--device", "CPU"]
        command += ["--data", str(folder / "clips"), "--keep", str(RECIPE / "keep.txt"), *OPTIONS]
        subprocess.run([*command, "--output", str(folder / "lora")], check=True)
        seconds, after = time.perf_counter() - start, os.times()
        processor = sum(after[2:4]) - sum(before[2:4])  # of child processes
        log = (folder / "lora" / "training" / "log.jsonl").read_text().splitlines()
        shutil.copy(folder / "lora" / FILE, LORA)
    taken = {"minutes": round(seconds / 60, 1), "processor_minutes": round(processor / 60, 1)}
    taken |= {"steps": json.loads(log[-1])["step"], "clips": orange_clips.CLIPS}
    return {"prompts": orange.PROMPTS.name, "training": taken, "lora_bytes": LORA.stat().st_size}


def measured(prompts: Path, sheet: Path, lora: Path | None) -> tuple[dict, list[dict]]:
    """Shares of right values of the clips of a prompt file, with orange among the colours, and all measurements."""
    more = ("--lora", str(lora)) if lora else ()
    _, results, seconds = evaluate("orange", "nano", sheet, "--prompts", str(prompts), *more)
    clips = results["clips"]
    return {
        "clips": len(clips),
        "right_percent": right_percent(clips),
        "wrong": wrong(clips),
        "seconds": seconds,
    }, clips


def right_percent(clips: list[dict]) -> dict[str, float]:
    """Percent of right values of every attribute."""
    return {
        name: round(100 * sum(clip["measured"][name] == clip[name] for clip in clips) / len(clips), 1)
        for name in obedience.ATTRIBUTES
    }


def evaluated(when: str, lora: Path | None) -> dict:
    """Results of the new and of the old prompts; writes the sheet of the new ones."""
    new, clips = measured(orange.PROMPTS, DOCS / f"finetune_{when}.png", lora)
    untaught = {(thing.shape, thing.motion) for thing in orange_clips.things(taught=False)}
    clips = [clip for clip in clips if (clip["shape"], clip["motion"]) in untaught]
    new["not_taught"] = {"clips": len(clips), "right_percent": right_percent(clips)}
    with tempfile.TemporaryDirectory() as folder:
        return {f"new_{when}": new, f"old_{when}": measured(obedience.PROMPTS, Path(folder) / "sheet.png", lora)[0]}


PARTS = {"train": train, "before": lambda: evaluated("before", None), "after": lambda: evaluated("after", LORA)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help="default: all, in this order")
    path = receipt.RESULTS / f"{NAME}.json"
    for part in parser.parse_args().parts or PARTS:
        numbers = PARTS[part]()
        before = json.loads(path.read_text()) if path.exists() else {}
        numbers = {name: value for name, value in before.items() if name not in receipt.HEAD} | numbers
        if {"old_before", "old_after"} <= numbers.keys():
            old, new = (numbers[f"old_{when}"]["right_percent"] for when in ("before", "after"))
            numbers["points_lost"] = {name: round(old[name] - new[name], 1) for name in old}
        receipt.write(NAME, ("mindspore", "numpy", "scipy"), numbers)


if __name__ == "__main__":
    main()
