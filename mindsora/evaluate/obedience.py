"""Does the nano model show what the prompt says? 64 prompts of held-out combinations, measured by classical vision.

    python -m mindsora.evaluate.obedience --model nano --output outputs/obedience

Writes `results.json` (what was asked, what was measured, the share right) and `contact_sheet.png` (every clip), and
exits with status 1 where a share falls below its threshold. Prompts, seeds and thresholds are those of
`obedience_prompts.json`, frozen before the final training; `frozen_prompts` says how they were drawn.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindsora.data.captions import STYLES, caption
from mindsora.data.procedural import BACKGROUNDS, MOTIONS, combinations
from mindsora.errors import InputError
from mindsora.evaluate.measure import Measured, measure
from mindsora.media import check_output, contact_sheet
from mindsora.runtime import Runtime

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
        prompts.append({"prompt": text, "seed": number, "shape": thing.shape, "colour": thing.colour,
                        "motion": thing.motion})
    return {"thresholds": {name: 0.9 for name in ATTRIBUTES}, "prompts": prompts}


def read_prompts(path: str | Path = PROMPTS) -> dict:
    """Read and check a prompt file."""
    try:
        content = json.loads(Path(path).read_text())
        keys = ("prompt", "seed", *ATTRIBUTES)
        if not content["prompts"] or any(key not in entry for entry in content["prompts"] for key in keys):
            raise InputError(f"prompt file {str(path)!r}: every prompt needs {', '.join(keys)}")
        if set(content["thresholds"]) != set(ATTRIBUTES):
            raise InputError(f"prompt file {str(path)!r}: thresholds are for {', '.join(ATTRIBUTES)}")
    except OSError as error:
        raise InputError(f"cannot read prompt file {str(path)!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"prompt file {str(path)!r} is not of the form of {PROMPTS.name}: {error!r}") from None
    return content


def score(prompts: list[dict], measured: list[Measured]) -> dict[str, float]:
    """Share of clips with the right value, per attribute."""
    return {name: sum(getattr(seen, name) == asked[name] for asked, seen in zip(prompts, measured, strict=True))
            / len(prompts) for name in ATTRIBUTES}


def report(content: dict, clips: list[np.ndarray], folder: Path, about: dict) -> dict[str, float]:
    """Measure the clips of a prompt file, write results and contact sheet into `folder`, return the shares."""
    prompts = content["prompts"]
    measured = [measure(clip) for clip in clips]
    shares = score(prompts, measured)
    entries = [asked | {"measured": {name: getattr(seen, name) for name in ATTRIBUTES}, "track": seen.track}
               for asked, seen in zip(prompts, measured)]
    results = about | {"shares": shares, "thresholds": content["thresholds"], "clips": entries}
    labels = []
    for entry in entries:
        wrong = [f"{name}: {entry['measured'][name]}" for name in ATTRIBUTES if entry["measured"][name] != entry[name]]
        labels.append(entry["prompt"] + (f" [measured {', '.join(wrong)}]" if wrong else ""))
    contact_sheet(clips, labels, folder / "contact_sheet.png")
    temporary = folder / "results.json.partial"
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(folder / "results.json")
    return shares


def generate(pipe, prompts: list[dict], **settings) -> list[np.ndarray]:
    """One clip (T, H, W, 3) a prompt, each from its own seed."""
    return [pipe(entry["prompt"], seed=entry["seed"], **settings).frames[0] for entry in tqdm(prompts, unit="clip")]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mindsora.evaluate.obedience", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="name or folder of a pipeline")
    parser.add_argument("--output", required=True, type=Path, help="folder for results.json and contact_sheet.png")
    parser.add_argument("--prompts", default=PROMPTS, type=Path, help="another prompt file")
    parser.add_argument("--steps", type=int, help="number of sampling steps, instead of the model's own")
    parser.add_argument("--guidance", type=float, help="guidance scale, instead of the model's own")
    Runtime.add_arguments(parser)
    options = parser.parse_args(arguments)
    settings = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        content = read_prompts(options.prompts)
        check_output(options.output / "contact_sheet.png", [".png"])
        runtime = Runtime.from_arguments(options)
        runtime.apply()  # MindSpore starts here, after everything cheap is checked
        from mindsora import TextToVideoPipeline

        pipe = TextToVideoPipeline.from_pretrained(options.model, jit=runtime.jit)
        pipe.set_progress_bar_config(disable=True)  # one bar over the clips is enough
        with runtime.profiling():
            clips = generate(pipe, content["prompts"], **settings)
        shares = report(content, clips, options.output, {"model": options.model, "settings": settings})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, share in shares.items():
        print(f"{name:7} {share:6.1%} right (wanted: {content['thresholds'][name]:.0%})")
    print(f"{options.output / 'results.json'}, {options.output / 'contact_sheet.png'}")
    return 0 if all(share >= content["thresholds"][name] for name, share in shares.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
