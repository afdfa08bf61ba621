"""How well the nano model obeys prompts, as a receipt, with every clip in docs/nano_obedience.png.

    python benchmarks/obedience.py

Runs `python -m mindsora.evaluate.obedience` with the model's own settings on the 64 held-out prompts. Status 1 where a
share falls below its threshold; the receipt is written all the same.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import receipt

from mindsora.evaluate import obedience

MODEL = "nano"
SHEET = receipt.ROOT / "docs" / "nano_obedience.png"


def main() -> int:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        status = obedience.main(["--model", MODEL, "--output", folder, "--device", "CPU"])
        if status > 1:
            return status
        results = json.loads((Path(folder) / "results.json").read_text())
        shutil.copyfile(Path(folder) / "contact_sheet.png", SHEET)
    wrong = []
    for clip in results["clips"]:
        differs = {name: clip["measured"][name] for name in obedience.ATTRIBUTES if clip["measured"][name] != clip[name]}
        if differs:
            wrong.append({"prompt": clip["prompt"], "seed": clip["seed"], "measured": differs})
    receipt.write(f"obedience_{MODEL}", ("mindspore", "numpy", "scipy"), {
        "model": MODEL,
        "clips": len(results["clips"]),
        "right_percent": {name: round(100 * share, 1) for name, share in results["shares"].items()},
        "thresholds": results["thresholds"],
        "wrong": wrong,
        "seconds": round(time.perf_counter() - start, 1),
    })
    return status


if __name__ == "__main__":
    sys.exit(main())
