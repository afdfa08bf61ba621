"""Run the regression suite on nano and on its random initialisation; write a receipt.

    python benchmarks/mini.py outputs/mini

The folder keeps the clips; a run that was stopped goes on. Beside the suite's scores the receipt gives

again      of the first two items, made a second time: whether their frames have the same sha256
loss       flow-matching loss on 16 held-out clips, the same noise for the trained denoiser and a random one

`tests/test_mini.py` measures the same and compares (`make test-slow`).
"""

import json
import sys
from pathlib import Path

import numpy as np
import receipt

from mindsora import cli
from mindsora.evaluate import mini
from mindsora.evaluate.items import read_items

MODEL = "nano"
AGAIN, LOSS_CLIPS = 2, 16


def suite(folder: Path, *options: str) -> dict:
    """The report of the suite's clips in a folder."""
    command = ["evaluate", "mini", "--model", MODEL, "--device", "CPU", "--output", str(folder), *options]
    status = cli.main(command)
    if status > 1:
        sys.exit(status)
    return json.loads((folder / "report.json").read_text())


def again(folder: Path) -> list[bool]:
    """Whether the first items give the same frames when they are made a second time."""
    entries = json.loads(mini.ITEMS.read_text())
    few = folder / "few_items.json"
    few.write_text(json.dumps(entries | {"items": entries["items"][:AGAIN]}))
    suite(folder / "again", "--prompts", str(few))
    names = [item.name for item in read_items(few)]
    return [_sha256(folder, name) == _sha256(folder / "again", name) for name in names]


def _sha256(folder: Path, name: str) -> str:
    return json.loads((folder / "clips" / f"{name}.mp4.json").read_text())["result"]["frames_sha256"]


def losses() -> dict[str, float]:
    """Flow-matching loss of the trained denoiser and of a random one, on the same held-out clips, texts and noise."""
    import mindspore as ms
    from mindspore import Tensor

    import mindsora
    from mindsora.data.toy.procedural import clip
    from mindsora.train.objectives import FlowMatching

    pipe = mindsora.TextToVideoPipeline.from_pretrained(MODEL, jit="off")
    objective, rng = FlowMatching(pipe.scheduler), np.random.RandomState(0)
    ms.set_seed(0)
    cells = {"trained": pipe.transformer, "random": mindsora.create_model(MODEL).set_train(False)}
    sums = dict.fromkeys(cells, 0.0)
    for number in range(LOSS_CLIPS):
        video, text, _ = clip(number, "heldout")
        x = video.transpose(3, 0, 1, 2)[None].astype(np.float32) / 127.5 - 1  # (1, 3, T, H, W)
        x0 = pipe.vae.normalise_latents(pipe.vae.encode(Tensor(x)).mode())
        noise = Tensor(rng.standard_normal(x0.shape).astype(np.float32))
        sigma = Tensor(np.array([(number + 0.5) / LOSS_CLIPS], np.float32))
        states, mask, pooled = pipe.encode_texts([text])[:3]
        for name, cell in cells.items():
            velocity = cell(objective.add_noise(x0, noise, sigma), 1000 * sigma, states, pooled, None, mask)
            sums[name] += float(objective.loss(velocity, x0, noise, sigma))
    return {name: total / LOSS_CLIPS for name, total in sums.items()}


def measured(folder: Path) -> dict:
    """Everything that the receipt keeps."""
    content = suite(folder)
    scores = {name.replace(" ", "_"): round(score["value"], 4) for name, score in content["scores"].items()}
    lowest = min(clip["values"]["flicker"] for clip in content["clips"])
    return {
        "clips": content["items"],
        "complete": content["complete"],
        "reached": all(score.get("reached", True) for score in content["scores"].values()),
        "scores": scores | {"lowest_flicker": round(lowest, 4)},
        "again": again(folder),
        "loss": {name: round(value, 4) for name, value in losses().items()},
    }


def main() -> None:
    receipt.write("mini_nano", ("mindspore", "numpy"), {"model": MODEL} | measured(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
