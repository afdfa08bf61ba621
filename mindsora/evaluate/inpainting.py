"""Does the nano inpainting model go on from the frames it is given, as the prompt says? On held-out combinations.

    mindsora evaluate inpainting --model nano_i2v --output outputs/inpainting

Three tasks on the same 24 combinations: image to video (the first frame is given), transition (the first and the last),
and continuation (the first half). What is given comes from a procedural clip that shows what the prompt says. Measured:

given_psnr_db  the given frames against the same frames of the result: mean over the clips, one counting 40 dB at most
last_psnr_db   in transitions the last frame alone, likewise
shape, colour, motion   share of clips in which the frames that the model made show them right, by classical vision; to
               repeat a given frame is right for the 3 of 24 that stand still, and a fade from frame to frame is a jump

A prompt may be set against its frames: with "given": "still", they are those of an object that stands still in the
middle, whatever the prompt says it does (`against_still`).

Writes `results.json` and `contact_sheet.png` (every clip), and exits with status 1 where a task falls below a
threshold. Prompts, seeds and thresholds are those of `inpainting_prompts.json`, frozen before the training;
`frozen_prompts` says how they were drawn.
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
# Without a limit, clips that stand still, whose last frame is the first, would count for those that miss theirs.
MOST_DB = 40.0
MOST_JUMP = 6.0  # pixels of a 64 x 64 frame, from a frame to the next; the fastest objects of the data move 2
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
        thing = choices[7 * turn % len(choices)]  # of training combinations, of three shapes
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
    """The image-to-video prompts, each from the picture of an object at rest: only the prompt tells what it is to do.

    A clip's own first frame tells most of it: what goes right starts at the left, what grows starts small.
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
    """What the frames show that are given with a prompt."""
    return Thing(entry["shape"], entry["colour"], entry.get("given", entry["motion"]))


def ground_truth(entry: dict, size: int = 64, frames: int = 17) -> np.ndarray:
    """The clip that a prompt's given frames are taken from: (T, H, W, 3) uint8."""
    return render((shown(entry),), entry["background"], np.random.RandomState([entry["seed"], 3]), size, frames)


def split_frames(task: str, frames: int) -> tuple[list[int], range]:
    """Numbers of the frames that are given, and of those that the model makes."""
    leading = frames // 2 if task == "continuation" else 1
    trailing = [frames - 1] if task == "transition" else []
    return [*range(leading), *trailing], range(leading, frames - len(trailing))


def generate(pipe, prompts: list[dict], **settings) -> list[np.ndarray]:
    """One clip (T, H, W, 3) a prompt, each from its own seed and from given frames, at the model's own size."""
    clips = []
    for entry in tqdm(prompts, unit="clip"):
        truth = ground_truth(entry, pipe.index.height, pipe.index.num_frames)
        given, _ = split_frames(entry["task"], len(truth))
        if entry["task"] == "continuation":
            shown = {"video": truth[given], "keep": len(given)}
        else:
            shown = {"images": [(truth[number], number) for number in given]}
        clips.append(pipe(entry["prompt"], seed=entry["seed"], **shown, **settings).frames[0])
    return clips


def score_tasks(prompts: list[dict], clips: list[np.ndarray]) -> tuple[dict[str, dict[str, float]], list[dict]]:
    """Task -> what THRESHOLDS names -> value, and every prompt with what was measured."""
    entries = []
    for asked, clip in zip(prompts, clips, strict=True):
        truth = ground_truth(asked, clip.shape[1], len(clip))
        given, made = split_frames(asked["task"], len(clip))
        found = measure(clip, made)
        measured = {name: getattr(found, name) for name in ATTRIBUTES}
        if found.motion and found.track["jump"] > MOST_JUMP:
            measured["motion"] = "jump"
        measured["given_psnr_db"] = min(psnr(clip[given], truth[given]), MOST_DB)
        if asked["task"] == "transition":
            measured["last_psnr_db"] = min(psnr(clip[-1:], truth[-1:]), MOST_DB)
        entries.append(asked | {"measured": measured, "track": found.track})
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
    """(task, what) of every value that does not reach its threshold."""
    return [
        (task, name) for task, values in tasks.items() for name, value in values.items() if value < thresholds[name]
    ]


def report(content: dict, clips: list[np.ndarray], folder: Path, about: dict) -> bool:
    """Measure the clips of a prompt file, write results and contact sheet into `folder`, print the values.

    Returns whether each reaches its threshold.
    """
    thresholds = content["thresholds"]
    tasks, entries = score_tasks(content["prompts"], clips)
    results = about | {"tasks": tasks, "thresholds": thresholds, "clips": entries}
    labels = [f"{entry['task']}: {prompted.label(entry, ATTRIBUTES)}" for entry in entries]
    prompted.write(folder, results, clips, labels)
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
