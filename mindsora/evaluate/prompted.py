"""Shared code of the evaluations by prompts: the prompt file, the run, the results on disk."""

import importlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mindsora.errors import InputError
from mindsora.files import whole_file
from mindsora.media import check_output, contact_sheet
from mindsora.pipelines.lora_file import LoRAFile
from mindsora.runtime import Runtime

SHEET, RESULTS = "contact_sheet.png", "results.json"


@dataclass(frozen=True)
class Evaluation:
    """One way to measure a model.

    Attributes:
        about: what it measures, in one line.
        model: the default model.
        prompts: the frozen prompt file.
        pipeline: name, in `mindsora`, of the pipeline it runs.
        read: prompt file -> its content, checked.
        generate: (pipeline, prompts, **settings) -> clips.
        report: (content, clips, folder, about) -> whether all thresholds are reached; writes and prints.
    """

    about: str
    model: str
    prompts: Path
    pipeline: str
    read: Callable[[Path], dict]
    generate: Callable
    report: Callable[..., bool]


def read_prompts(path: str | Path, frozen: Path, keys: Collection[str], thresholds: Collection[str]) -> dict:
    """Read and check a prompt file.

    Args:
        frozen: the file whose form it must have.
        keys: what every prompt needs.
        thresholds: names of the thresholds.
    """
    try:
        content = json.loads(Path(path).read_text())
        if not content["prompts"] or any(key not in entry for entry in content["prompts"] for key in keys):
            raise InputError(f"prompt file {str(path)!r}: every prompt needs {', '.join(keys)}")
        if set(content["thresholds"]) != set(thresholds):
            raise InputError(f"prompt file {str(path)!r}: thresholds are for {', '.join(thresholds)}")
    except OSError as error:
        raise InputError(f"cannot read prompt file {str(path)!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"prompt file {str(path)!r} is not of the form of {frozen.name}: {error!r}") from None
    return content


def evaluate(
    name: str,
    prompts: str | None,
    model: str | None,
    folder: Path,
    policy: Runtime,
    steps: int | None,
    guidance: float | None,
    loras: Sequence[LoRAFile],
) -> bool:
    """Run an evaluation by name; `prompts` and `model` may be its own (None). Other arguments and the result: see `run`."""
    evaluation = importlib.import_module(f"mindsora.evaluate.{name}").EVALUATION
    content = evaluation.read(prompts or evaluation.prompts)
    check_output(folder / SHEET, [".png"])
    policy.apply()
    reached = run(evaluation, model or evaluation.model, folder, content, policy, steps, guidance, loras)
    print(f"{folder / RESULTS}, {folder / SHEET}")
    return reached


def run(
    evaluation: Evaluation,
    model: str,
    folder: Path,
    content: dict,
    policy: Runtime,
    steps: int | None,
    guidance: float | None,
    loras: Sequence[LoRAFile] = (),
) -> bool:
    """Generate a clip for every prompt, measure them, write the results. The caller has applied `policy`.

    Args:
        model: name or folder of a pipeline.
        folder: for RESULTS and SHEET.
        content: of a prompt file, from `evaluation.read`.
        steps, guidance: None for the model's own.
        loras: for the denoiser.

    Returns:
        Whether all thresholds are reached.
    """
    import mindsora

    options = {"num_inference_steps": steps, "guidance_scale": guidance}
    settings = {name: value for name, value in options.items() if value is not None}
    pipe = getattr(mindsora, evaluation.pipeline).from_pretrained(model, jit=policy.jit)
    for lora in loras:
        pipe.load_lora_weights(lora.file, lora.scale)
    pipe.set_progress_bar_config(disable=True)  # one bar over the clips is enough
    with policy.profiling():
        clips = evaluation.generate(pipe, content["prompts"], **settings)
    about = {"model": model, "settings": settings} | ({"lora": [asdict(lora) for lora in pipe.loras]} if loras else {})
    return evaluation.report(content, clips, folder, about)


def write(folder: Path, results: dict, clips: list[np.ndarray], labels: list[str]) -> None:
    """Write contact sheet and results into a folder."""
    contact_sheet(clips, labels, folder / SHEET)
    with whole_file(folder / RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def label(entry: dict, names: Collection[str]) -> str:
    """A clip's text in the contact sheet: its prompt, and the values of `names` that were measured differently."""
    wrong = [f"{name}: {entry['measured'][name]}" for name in names if entry["measured"][name] != entry[name]]
    return entry["prompt"] + (f" [measured {', '.join(wrong)}]" if wrong else "")
