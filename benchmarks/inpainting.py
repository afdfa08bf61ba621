"""How well nano_i2v goes on from given frames, as a receipt, with every clip in docs/nano_i2v_inpainting.png.

    python benchmarks/inpainting.py

Runs `python -m mindsora.evaluate.inpainting` with the model's own settings on the 72 prompts, held out and frozen. Status
1 where a value falls below its threshold; the receipt is written all the same.
"""

import sys

import receipt
from obedience import evaluate, wrong

from mindsora.evaluate import inpainting
from mindsora.evaluate.obedience import ATTRIBUTES

MODEL = "nano_i2v"
SHEET = receipt.ROOT / "docs" / "nano_i2v_inpainting.png"


def main() -> int:
    status, results, seconds = evaluate(inpainting, MODEL, SHEET)
    tasks = {task: {f"{name}_percent" if name in ATTRIBUTES else name:
                    round(100 * value, 1) if name in ATTRIBUTES else round(value, 2) for name, value in values.items()}
             for task, values in results["tasks"].items()}
    receipt.write(f"inpainting_{MODEL}", ("mindspore", "numpy", "scipy"), {
        "model": MODEL,
        "clips": len(results["clips"]),
        "tasks": tasks,
        "thresholds": results["thresholds"],
        "wrong": wrong(results["clips"]),
        "seconds": seconds,
    })
    return status


if __name__ == "__main__":
    sys.exit(main())
