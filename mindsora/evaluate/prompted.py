"""Evaluations of which all clips are measured together: the prompt file, the run, the results on disk.

Beside the report that every evaluation writes they have `results.json` and a contact sheet, which the model cards show.
"""

import importlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import mindsora
from mindsora.errors import InputError
from mindsora.evaluate import report
from mindsora.evaluate.generation import CLIPS
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Judge, Measure, Row, mean_of
from mindsora.evaluate.page import write_page
from mindsora.evaluate.running import PAGE, REPORT
from mindsora.files import whole_file, write_json
from mindsora.media import check_output, contact_sheet, export_to_video
from mindsora.pipelines.lora_file import LoRAFile
from mindsora.runtime import Runtime

SHEET, RESULTS = "contact_sheet.png", "results.json"
VISION = Judge("classical vision of drawn objects", mindsora.__version__)


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


def write(folder: Path, name: str, results: dict, clips: list[np.ndarray], labels: list[str]) -> None:
    """Write every clip, the contact sheet, the results, the report and its page into a folder."""
    (folder / CLIPS).mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        export_to_video(clip, folder / CLIPS / f"{number:03d}.mp4")
    contact_sheet(clips, labels, folder / SHEET)
    with whole_file(folder / RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    content = report_of(name, results)
    write_json(folder / REPORT, content)
    write_page(folder / PAGE, [content], [folder / CLIPS])


def report_of(name: str, results: dict) -> dict:
    """The report of results: whether each attribute is right (1 or 0), and each metric, of every clip."""
    rows = [_row(number, entry) for number, entry in enumerate(results["clips"])]
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    measures = [
        Measure(name, VISION, lambda clip: None, (0.0, 100.0 if name.endswith("_db") else 1.0)) for name in names
    ]
    about = {"model": results.get("model"), "settings": results.get("settings"), "notes": []}
    thresholds = {name: results["thresholds"][name.rpartition(" ")[2]] for name in names}
    evaluation = report.Named(name, f"Shares of right values and metrics of {name}.", thresholds)
    return report.build(evaluation, about, measures, list(map(mean_of, measures)), rows)


def _row(number: int, entry: dict) -> Row:
    """The values of a clip; those of a task are named after it."""
    task = f"{entry['task']} " if "task" in entry else ""
    values = {
        f"{task}{name}": float(value == entry[name]) if name in entry else float(value)
        for name, value in entry["measured"].items()
    }
    item = Item(f"{number:03d}", (entry["prompt"],), entry["seed"], {k: v for k, v in entry.items() if k != "track"})
    return Row(item, values, files=(f"{number:03d}.mp4",))


def label(entry: dict, names: Collection[str]) -> str:
    """A clip's text in the contact sheet: its prompt, and the values of `names` that were measured differently."""
    wrong = [f"{name}: {entry['measured'][name]}" for name in names if entry["measured"][name] != entry[name]]
    return entry["prompt"] + (f" [measured {', '.join(wrong)}]" if wrong else "")
