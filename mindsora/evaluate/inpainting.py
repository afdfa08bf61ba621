"""Measure whether the nano inpainting model continues its given frames as the prompt says, on held-out combinations.

    mindsora evaluate inpainting --model nano_i2v --output outputs/inpainting

Three tasks use the same 24 combinations: image to video (the first frame is given), transition (the first and the last
frame) and continuation (the first half). The given frames come from a procedural clip that shows what the prompt says.
The metrics are:

given_psnr_db  PSNR of the given frames against the same frames of the result, at most 40 dB a clip; mean over clips
last_psnr_db   the same for the last frame of transitions
shape, colour, motion   share of clips whose generated frames show the right value, by classical vision. Repeating a
               given frame is right for the 3 of 24 objects that stand still. A fade from frame to frame is a jump.

A prompt may contradict its frames: with "given": "still" the frames show an object that stands still in the middle,
whatever motion the prompt asks for (`against_still`).

The command writes a report (docs/evaluation.md), `results.json` and `contact_sheet.png` (every clip), and exits with
status 1 if a task falls below a threshold. Prompts, seeds and thresholds are in `inpainting_prompts.json`, frozen before
the training; `frozen_prompts` drew them.
"""

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindsora.data.toy.captions import STYLES, caption
from mindsora.data.toy.procedural import BACKGROUNDS, MOTIONS, Thing, combinations, render
from mindsora.errors import InputError
from mindsora.evaluate import prompted
from mindsora.evaluate.measure import measure
from mindsora.evaluate.obedience import ATTRIBUTES
from mindsora.media import psnr

PROMPTS = Path(__file__).with_name("inpainting_prompts.json")
TASKS = ("i2v", "transition", "continuation")
# Without a limit, still clips, whose last frame equals the first, would make up for clips that miss their last frame.
MOST_DB = 40.0
MOST_JUMP = 6.0  # pixels of a 64 x 64 frame between adjacent frames; the fastest objects of the data move 2
THRESHOLDS = {"given_psnr_db": 25, "last_psnr_db": 25, "shape": 0.9, "colour": 0.9, "motion": 0.8}


def frozen_prompts(split: str = "heldout") -> dict:
    """The content of `inpainting_prompts.json`: three combinations of each motion, in every task; seed = number.

    With split "train", a set of the same form to tune guidance and steps on.
    """
    prompts = []
    for number in range(len(TASKS) * 3 * len(MOTIONS)):
        turn, motion = divmod(number, len(MOTIONS))
        task, turn = divmod(turn, 3)
        choices = combinations(split, MOTIONS[motion])
        thing = choices[7 * turn % len(choices)]  # training combinations have three shapes
        style = STYLES[(motion + turn + task) % len(STYLES)]  # each combination in every style
        background = tuple(BACKGROUNDS)[(motion + turn + task) % len(BACKGROUNDS)]
        text = caption((thing,), background, np.random.RandomState([number, 4]), style=style)
        prompts.append(
            {
                "task": TASKS[task],
                "prompt": text,
                "seed": number,
                "background": background,
                "shape": thing.shape,
                "colour": thing.colour,
                "motion": thing.motion,
            }
        )
    return {"thresholds": THRESHOLDS, "prompts": prompts}


def against_still(prompts: list[dict]) -> list[dict]:
    """The image-to-video prompts with the image of an object at rest, so that only the prompt determines the motion.

    A clip's own first frame reveals most of the motion: an object that moves right starts at the left, and one that
    grows starts small.
    """
    return [entry | {"given": "still"} for entry in prompts if entry["task"] == "i2v"]


def read_prompts(path: str | Path = PROMPTS) -> dict:
    """Read and check a prompt file."""
    content = prompted.read_prompts(path, PROMPTS, ("task", "prompt", "seed", "background", *ATTRIBUTES), THRESHOLDS)
    for entry in content["prompts"]:
        if entry["task"] not in TASKS:
            raise InputError(f"prompt file {str(path)!r}: task {entry['task']!r} must be one of {', '.join(TASKS)}")
        Thing(*(entry[name] for name in ATTRIBUTES))
        shown(entry)
    return content


def shown(entry: dict) -> Thing:
    """The object in the given frames of a prompt."""
    return Thing(entry["shape"], entry["colour"], entry.get("given", entry["motion"]))


def ground_truth(entry: dict, size: int = 64, frames: int = 17) -> np.ndarray:
    """The source clip of a prompt's given frames: (T, H, W, 3) uint8."""
    return render((shown(entry),), entry["background"], np.random.RandomState([entry["seed"], 3]), size, frames)


def split_frames(task: str, frames: int) -> tuple[list[int], range]:
    """Numbers of the given frames and of the generated frames."""
    leading = frames // 2 if task == "continuation" else 1
    trailing = [frames - 1] if task == "transition" else []
    return [*range(leading), *trailing], range(leading, frames - len(trailing))


def generate(pipe, prompts: list[dict], **settings) -> list[np.ndarray]:
    """One clip (T, H, W, 3) per prompt, each from its own seed and given frames, at the model's own size."""
    clips = []
    for entry in tqdm(prompts, unit="clip"):
        truth = ground_truth(entry, pipe.index.height, pipe.index.num_frames)
        given, _ = split_frames(entry["task"], len(truth))
        if entry["task"] == "continuation":
            frames = {"video": truth[given], "keep": len(given)}
        else:
            frames = {"images": [(truth[number], number) for number in given]}
        clips.append(pipe(prompt=entry["prompt"], seed=entry["seed"], **frames, **settings).frames[0])
    return clips


def score_tasks(prompts: list[dict], clips: list[np.ndarray]) -> tuple[dict[str, dict[str, float]], list[dict]]:
    """Task -> metric of THRESHOLDS -> value, and every prompt with its measurements."""
    entries = []
    for prompt, clip in zip(prompts, clips, strict=True):
        truth = ground_truth(prompt, clip.shape[1], len(clip))
        given, generated = split_frames(prompt["task"], len(clip))
        result = measure(clip, generated)
        measured = {name: getattr(result, name) for name in ATTRIBUTES}
        if result.motion and result.track["jump"] > MOST_JUMP:
            measured["motion"] = "jump"
        measured["given_psnr_db"] = min(psnr(clip[given], truth[given]), MOST_DB)
        if prompt["task"] == "transition":
            measured["last_psnr_db"] = min(psnr(clip[-1:], truth[-1:]), MOST_DB)
        entries.append(prompt | {"measured": measured, "track": result.track})
    tasks = {}
    for task in dict.fromkeys(entry["task"] for entry in entries):
        mine = [entry for entry in entries if entry["task"] == task]
        tasks[task] = {
            name: float(
                np.mean(
                    [
                        entry["measured"][name] == entry[name] if name in ATTRIBUTES else entry["measured"][name]
                        for entry in mine
                    ]
                )
            )
            for name in THRESHOLDS
            if name in mine[0]["measured"]
        }
    return tasks, entries


def below(tasks: dict[str, dict[str, float]], thresholds: dict[str, float]) -> list[tuple[str, str]]:
    """(task, metric) of every value below its threshold."""
    return [
        (task, name) for task, values in tasks.items() for name, value in values.items() if value < thresholds[name]
    ]


def report(content: dict, clips: list[np.ndarray], folder: Path, about: dict) -> bool:
    """Measure the clips of a prompt file, write results and contact sheet into `folder`, print the values.

    Returns whether all values reach their thresholds.
    """
    thresholds = content["thresholds"]
    tasks, entries = score_tasks(content["prompts"], clips)
    results = about | {"tasks": tasks, "thresholds": thresholds, "clips": entries}
    labels = [f"{entry['task']}: {prompted.label(entry, ATTRIBUTES)}" for entry in entries]
    prompted.write(folder, "inpainting", results, clips, labels)
    for task, values in tasks.items():
        for name, value in values.items():
            if name in ATTRIBUTES:
                print(f"{task:12} {name:13} {value:6.1%} right (wanted: {thresholds[name]:.0%})")
            else:
                print(f"{task:12} {name:13} {value:6.2f} (wanted: {thresholds[name]})")
    return not below(tasks, thresholds)


EVALUATION = prompted.Evaluation(
    __doc__.splitlines()[0], "nano_i2v", PROMPTS, "ImageToVideoPipeline", read_prompts, generate, report
)

if __name__ == "__main__":
    from mindsora.cli import main

    sys.exit(main(["evaluate", "inpainting", *sys.argv[1:]]))
