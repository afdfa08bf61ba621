"""Measure how well nano_i2v continues given frames; write a receipt, and every clip to docs/nano_i2v_inpainting.png.

    python benchmarks/inpainting.py

Runs `mindsora evaluate inpainting` with the model's own settings on the 72 held-out, frozen prompts. The status is 1 if
a value is below its threshold; the receipt is written in any case. A second run takes the image-to-video prompts with
pictures of objects at rest, which do not show the motion. It has no threshold; its clips are in
docs/nano_i2v_still.png.
"""

import json
import sys
import tempfile
from pathlib import Path

import receipt
from obedience import evaluate, wrong

from mindsora.evaluate.inpainting import against_still, read_prompts
from mindsora.evaluate.obedience import ATTRIBUTES

MODEL = "nano_i2v"
SHEET, STILL_SHEET = (receipt.ROOT / "docs" / f"nano_i2v_{name}.png" for name in ("inpainting", "still"))


def rounded(results: dict) -> dict[str, dict]:
    """Task -> shares in percent, PSNR (mean and worst clip), and the number of clips below the threshold."""
    tasks = {}
    for task, values in results["tasks"].items():
        tasks[task] = {f"{name}_percent": round(100 * values[name], 1) for name in ATTRIBUTES}
        measured = [clip["measured"] for clip in results["clips"] if clip["task"] == task]
        for name in values.keys() - set(ATTRIBUTES):
            clips = [clip[name] for clip in measured]
            tasks[task] |= {
                name: round(values[name], 2),
                f"lowest_{name}": round(min(clips), 2),
                f"{name.removesuffix('_psnr_db')}_below_threshold": sum(x < results["thresholds"][name] for x in clips),
            }
    return tasks


def main() -> int:
    status, results, seconds = evaluate("inpainting", MODEL, SHEET)
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        content = read_prompts()
        prompts.write_text(json.dumps(content | {"prompts": against_still(content["prompts"])}))
        _, still, _ = evaluate("inpainting", MODEL, STILL_SHEET, "--prompts", str(prompts))
    receipt.write(
        f"inpainting_{MODEL}",
        ("mindspore", "numpy", "scipy"),
        {
            "model": MODEL,
            "clips": len(results["clips"]),
            "tasks": rounded(results),
            "thresholds": results["thresholds"],
            "wrong": wrong(results["clips"]),
            "against_still": rounded(still)["i2v"] | {"clips": len(still["clips"]), "wrong": wrong(still["clips"])},
            "seconds": seconds,
        },
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
