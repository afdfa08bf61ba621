"""Measure whether the nano model shows what the prompt says, on 64 prompts of held-out combinations, by classical vision.

    mindsora evaluate obedience --model nano --output outputs/obedience

The command writes a report (docs/evaluation.md), `results.json` (prompts, measurements, shares of right values) and
`contact_sheet.png` (every clip), and exits with status 1 if a share falls below its threshold. Prompts, seeds and
thresholds are in `obedience_prompts.json`, frozen before the final training; `frozen_prompts` drew them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, COLOURS, MOTIONS, combinations
from mindsora.evaluate import prompted
from mindsora.evaluate.measure import Measured, measure

PROMPTS = Path(__file__).with_name("obedience_prompts.json")
ATTRIBUTES = ("shape", "colour", "motion")


def frozen_prompts(split: str = "heldout", count: int = 64) -> dict:
    """The content of `obedience_prompts.json`: 24 combinations, styles and backgrounds in turn, seed = number.

    With split "train", a set of the same form to tune guidance and steps on.
    """
    prompts = []
    for number in range(count):
        turn, motion = divmod(number, len(MOTIONS))
        choices = combinations(split, MOTIONS[motion])
        thing = choices[turn % len(choices)]
        style = STYLES[(motion + turn + turn // len(choices)) % len(STYLES)]  # each combination in every style
        background = tuple(BACKGROUNDS)[(number + turn) % len(BACKGROUNDS)]
        text = caption((thing,), background, np.random.RandomState([number, 2]), style=style)
        prompts.append(
            {"prompt": text, "seed": number, "shape": thing.shape, "colour": thing.colour, "motion": thing.motion}
        )
    return {"thresholds": {name: 0.9 for name in ATTRIBUTES}, "prompts": prompts}


def read_prompts(path: str | Path = PROMPTS) -> dict:
    """Read and check a prompt file."""
    return prompted.read_prompts(path, PROMPTS, ("prompt", "seed", *ATTRIBUTES), ATTRIBUTES)


def score(prompts: list[dict], measured: list[Measured]) -> dict[str, float]:
    """Share of clips with the right value, per attribute."""
    return {
        name: sum(getattr(result, name) == prompt[name] for prompt, result in zip(prompts, measured, strict=True))
        / len(prompts)
        for name in ATTRIBUTES
    }


def report(
    content: dict,
    clips: list[np.ndarray],
    folder: Path,
    about: dict,
    colours: Mapping[str, tuple[int, int, int]] = COLOURS,
    name: str = "obedience",
) -> bool:
    """Measure the clips of a prompt file, write report, results and contact sheet into `folder`, print the shares.

    Args:
        colours: see `mindsora.evaluate.measure.measure`.
        name: of the evaluation.

    Returns whether all shares reach their thresholds.
    """
    prompts, thresholds = content["prompts"], content["thresholds"]
    measured = [measure(clip, colours=colours) for clip in clips]
    shares = score(prompts, measured)
    entries = [
        prompt | {"measured": {name: getattr(result, name) for name in ATTRIBUTES}, "track": result.track}
        for prompt, result in zip(prompts, measured)
    ]
    results = about | {"shares": shares, "thresholds": thresholds, "clips": entries}
    prompted.write(folder, name, results, clips, [prompted.label(entry, ATTRIBUTES) for entry in entries])
    for name, share in shares.items():
        print(f"{name:7} {share:6.1%} right (wanted: {thresholds[name]:.0%})")
    return all(share >= thresholds[name] for name, share in shares.items())


def generate(pipe, prompts: list[dict], **settings) -> list[np.ndarray]:
    """One clip (T, H, W, 3) per prompt, each from its own seed."""
    return [pipe(entry["prompt"], seed=entry["seed"], **settings).frames[0] for entry in tqdm(prompts, unit="clip")]


EVALUATION = prompted.Evaluation(
    __doc__.splitlines()[0], "nano", PROMPTS, "TextToVideoPipeline", read_prompts, generate, report
)

if __name__ == "__main__":
    from mindsora.cli import main

    sys.exit(main(["evaluate", "obedience", *sys.argv[1:]]))
