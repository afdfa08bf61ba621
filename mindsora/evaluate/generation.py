"""Generates the clips of an evaluation: each a file with its manifest, kept for good; a run that was stopped goes on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mindsora import manifest, runtime
from mindsora.errors import InputError, shown
from mindsora.evaluate.evaluation import Asked, Evaluation
from mindsora.evaluate.items import Item
from mindsora.files import file_sha256
from mindsora.jobs.planning import Plan, plan
from mindsora.media import read_video, save_image
from mindsora.pipelines.given_files import GivenFiles

CLIPS, GIVEN = "clips", "given"  # folders of the output


def generate(evaluation: Evaluation, items: Sequence[Item], asked: Asked) -> int:
    """Make the clips that `asked.output` lacks; under msrun, those of this rank.

    Returns the number of clips of all ranks that are still missing.

    Raises:
        InputError: a clip in the folder was made from another request.
    """
    own = items[runtime.rank() :: runtime.world()]
    todo = [item for item in own if not _done(item, asked)]
    if todo:
        _make(evaluation, todo, asked)
    return sum(not path.is_file() for item in items for path in _paths(item, asked))


def _paths(item: Item, asked: Asked) -> list[Path]:
    return [asked.output / CLIPS / f"{stem}.mp4" for stem in item.stems]


def _done(item: Item, asked: Asked) -> bool:
    """Whether the folder has all shots of an item, whole, made from this request."""
    return all([_is_made(path, item, shot, asked) for shot, path in enumerate(_paths(item, asked))])


def _is_made(path: Path, item: Item, shot: int, asked: Asked) -> bool:
    if not (path.is_file() and manifest.beside(path).is_file()):
        return False
    made = manifest.read(manifest.beside(path))
    wanted = {"model": asked.model, "prompt": item.prompts[shot], "seed": item.seed} | dict(asked.settings)
    for name, value in wanted.items():
        if made["request"].get(name) != value:
            raise InputError(
                f"{shown(path)} was made with {name} = {shown(made['request'].get(name))}, not {shown(value)}; "
                "give another --output"
            )
    loras = [lora["file"] for lora in made["request"].get("lora", [])]
    if loras != [lora.file for lora in asked.loras]:
        raise InputError(f"{shown(path)} was made with the LoRA files {loras}; give another --output")
    return made["result"]["file_sha256"] == file_sha256(path)  # a killed run may leave a manifest and another clip


def _make(evaluation: Evaluation, items: Sequence[Item], asked: Asked) -> None:
    from mindsora.jobs import running  # imports MindSpore, whose settings the caller has made
    from mindsora.manifest import Recorder

    for name in (CLIPS, GIVEN):
        (asked.output / name).mkdir(parents=True, exist_ok=True)
    first = _plan(evaluation, items[0], 0, asked, given=False)  # refuses a bad model or LoRA before loading
    pipe, seconds = running.load(first, asked.policy)
    pipe.set_progress_bar_config(disable=True)  # one bar over the clips is enough
    about = {"command": asked.command, "prompts": len(items), "seeds": [], "contact_sheet": None}
    recorder = Recorder(asked.model, None, first.folder, pipe, asked.policy, about, seconds)
    with asked.policy.profiling():
        for item in tqdm(items, unit="clip"):
            for shot in range(len(item.prompts)):
                list(running.write(_plan(evaluation, item, shot, asked), pipe, recorder))


def _plan(evaluation: Evaluation, item: Item, shot: int, asked: Asked, given: bool = True) -> Plan:
    """The plan of one shot; its given frames are written as pictures, so that the manifest can name them."""
    path = _paths(item, asked)[shot]
    made = plan(asked.model, [item.prompts[shot]], path, [item.seed], loras=asked.loras, **asked.settings)
    if evaluation.given is None or not given:
        return made
    before = read_video(_paths(item, asked)[shot - 1])[0] if shot else None
    pictures = evaluation.given(item, shot, before, made.jobs[0].request.size)
    files = GivenFiles(tuple((_picture(asked, path.stem, time, frame), str(time)) for frame, time in pictures))
    made = plan(asked.model, [item.prompts[shot]], path, [item.seed], loras=asked.loras, given=files, **asked.settings)
    return made


def _picture(asked: Asked, stem: str, time: int, frame: np.ndarray) -> str:
    return save_image(frame, asked.output / GIVEN / f"{stem}-{time:04d}.png")
