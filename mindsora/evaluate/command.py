"""What the evaluations of a model by its prompts share: the prompt file, the arguments, the results on disk."""

import argparse
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from mindsora.errors import InputError
from mindsora.files import whole_file
from mindsora.media import check_output, contact_sheet
from mindsora.runtime import Runtime

SHEET, RESULTS = "contact_sheet.png", "results.json"


def read_prompts(path: str | Path, frozen: Path, keys: Collection[str], thresholds: Collection[str]) -> dict:
    """Read and check a prompt file.

    Args:
        frozen: the file whose form it must have.
        keys: what every prompt needs.
        thresholds: what there are thresholds for.
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


def run(
    name: str,
    about: str,
    model: str,
    prompts: Path,
    pipeline: str,
    arguments: list[str] | None,
    read: Callable[[Path], dict],
    generate: Callable,
    report: Callable[..., bool],
) -> int:
    """The command of one evaluation. Returns the exit status: 1 below a threshold, 2 for bad input.

    Args:
        name, about, model, prompts: of the module, what it does, and its defaults.
        pipeline: name, in `mindsora`, of the pipeline it runs.
        arguments: of the command line; None takes the process's own.
        read: prompt file -> its content, checked.
        generate: (pipeline, prompts, **settings) -> clips.
        report: (content, clips, folder, about) -> whether all thresholds are reached; writes and prints.
    """
    parser = argparse.ArgumentParser(prog=f"python -m mindsora.evaluate.{name}", description=about)
    parser.add_argument("--model", default=model, help="name or folder of a pipeline")
    parser.add_argument("--output", required=True, type=Path, help=f"folder for {RESULTS} and {SHEET}")
    parser.add_argument("--prompts", default=prompts, type=Path, help="another prompt file")
    parser.add_argument("--steps", type=int, help="number of sampling steps, instead of the model's own")
    parser.add_argument("--guidance", type=float, help="guidance scale, instead of the model's own")
    Runtime.add_arguments(parser)
    options = parser.parse_args(arguments)
    settings = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    settings = {key: value for key, value in settings.items() if value is not None}
    try:
        content = read(options.prompts)
        check_output(options.output / SHEET, [".png"])
        runtime = Runtime.from_arguments(options)
        runtime.apply()  # MindSpore starts here, after everything cheap is checked
        import mindsora

        pipe = getattr(mindsora, pipeline).from_pretrained(options.model, jit=runtime.jit)
        pipe.set_progress_bar_config(disable=True)  # one bar over the clips is enough
        with runtime.profiling():
            clips = generate(pipe, content["prompts"], **settings)
        passed = report(content, clips, options.output, {"model": options.model, "settings": settings})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output / RESULTS}, {options.output / SHEET}")
    return 0 if passed else 1


def write(folder: Path, results: dict, clips: list[np.ndarray], labels: list[str]) -> None:
    """Write contact sheet and results into a folder."""
    contact_sheet(clips, labels, folder / SHEET)
    with whole_file(folder / RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def label(entry: dict, names: Collection[str]) -> str:
    """A clip's text in the contact sheet: its prompt, and what of `names` was measured otherwise."""
    wrong = [f"{name}: {entry['measured'][name]}" for name in names if entry["measured"][name] != entry[name]]
    return entry["prompt"] + (f" [measured {', '.join(wrong)}]" if wrong else "")
