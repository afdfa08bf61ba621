"""Runs an evaluation: clips, values, scores, report."""

import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import mindsora
from mindsora.errors import InputError, shown
from mindsora.evaluate import report
from mindsora.evaluate.clips import Unreadable, clips_in
from mindsora.evaluate.evaluation import Asked, Evaluation
from mindsora.evaluate.items import Item, read_items, videos_of
from mindsora.evaluate.measures import Clip, Measure, Row, mean_of
from mindsora.evaluate.page import write_page, write_preview
from mindsora.files import file_sha256

REPORT, PAGE, PREVIEWS = "report.json", "report.html", "previews"


def evaluate(evaluation: Evaluation, asked: Asked) -> dict | None:
    """Generate what is missing, judge every clip, write REPORT and PAGE into `asked.output`. Returns the report.

    None where clips of other ranks are still missing: the rank that ends last writes the report.

    Raises:
        InputError: anything wrong with the request, before a model is loaded.
    """
    check(evaluation, asked)
    if "import" in asked.options:
        measures, rows, scores = evaluation.imported(asked)
    else:
        measures = evaluation.measures(asked.judges)
        clips = clips_of(evaluation, asked)
        if clips is None:
            return None
        _folder(asked.output / PREVIEWS)
        rows = judge(measures, clips, asked.output / PREVIEWS)
        own = evaluation.scores(measures)
        named = {score.name for score in own}
        scores = *(mean_of(each) for each in measures if not each.missing and each.name not in named), *own
    if "export" in asked.options:
        evaluation.export(rows, asked)
    told = about(asked) | {"notes": evaluation.notes(rows, asked)}
    content = report.build(evaluation, told, measures, scores, rows)
    _folder(asked.output)
    report.write(asked.output / REPORT, content)
    write_page(asked.output / PAGE, [content], [asked.output / PREVIEWS])
    return content


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {shown(path)}: {error.strerror}") from None


def check(evaluation: Evaluation, asked: Asked) -> None:
    """InputError for a request that this evaluation cannot run."""
    if evaluation.source is None and (asked.model is None) == (asked.videos is None):
        raise InputError(f"`mindsora evaluate {evaluation.name}` takes --model or --videos, one of them")
    for kind, given, known in (
        ("judge", asked.judges, evaluation.judges),
        ("option", asked.options, evaluation.options),
    ):
        for name in given:
            if name not in known:
                raise InputError(
                    f"{kind} {shown(name)} does not belong to {evaluation.name}, which takes {', '.join(known) or 'none'}"
                )
    for name, path in asked.judges.items():
        if not path.is_file():
            raise InputError(f"file {shown(path)} of judge {shown(name)} does not exist")


def items_of(evaluation: Evaluation, asked: Asked) -> tuple[Item, ...]:
    """The items: those of a file, or the videos of a folder."""
    if asked.videos is not None and evaluation.of_any_video and asked.items is None:
        return tuple(Item(stem, (stem,)) for stem in videos_of(asked.videos))
    path = asked.items or evaluation.items
    if path is None:
        raise InputError(f"`mindsora evaluate {evaluation.name}` needs --videos DIR")
    return read_items(path)


def clips_of(evaluation: Evaluation, asked: Asked) -> Iterable[Clip | Unreadable] | None:
    """The clips to judge, generated first where a model is given; None where other ranks still owe some."""
    if evaluation.source is not None:
        return evaluation.source(asked)
    items = items_of(evaluation, asked)
    if asked.videos is not None:
        return clips_in(videos_of(asked.videos), items)
    from mindsora.evaluate.generation import CLIPS, generate

    return None if generate(evaluation, items, asked) else clips_in(videos_of(asked.output / CLIPS), items)


def judge(measures: Sequence[Measure], clips: Iterable[Clip | Unreadable], previews: Path | None = None) -> list[Row]:
    """A row of values for every clip; a preview of each is written into the folder `previews`."""
    rows = []
    for clip in tqdm(clips, unit="clip"):
        if isinstance(clip, Unreadable):
            rows.append(Row(clip.item, error=clip.reason))
            continue
        try:
            rows.append(row_of(measures, clip))
        except InputError as error:  # a judge refuses this clip, or has no answer for it
            rows.append(Row(clip.item, error=str(error)))
            continue
        if previews is not None:
            write_preview(clip, previews)
    if not rows:
        raise InputError("no clip to judge")
    return rows


def row_of(measures: Sequence[Measure], clip: Clip) -> Row:
    """The values of one clip. A measure that returns arrays keeps them for scores over the whole set."""
    names = tuple(path.name for path in clip.paths)
    row = Row(clip.item, cost=cost_of(clip), files=names, frames=len(clip.frames))
    for measure in measures:
        if measure.missing:
            continue
        value = measure.of_clip(clip)
        if isinstance(value, np.ndarray):
            row.features[measure.name] = value
        else:
            row.values[measure.name] = None if value is None else float(value)
    return row


def cost_of(clip: Clip) -> dict[str, float]:
    """Seconds and peak memory of a clip that was generated here, from its manifests."""
    if not clip.manifests:
        return {}
    seconds = [made["cost"]["seconds"] for made in clip.manifests]
    return {
        "seconds": sum(value for each in seconds for name, value in each.items() if name != "load"),
        "peak_memory_bytes": max(made["cost"]["peak_memory_bytes"]["host"] for made in clip.manifests),
    }


def about(asked: Asked) -> dict:
    """What a report says of the run."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": asked.command,
        "version": mindsora.__version__,
        "model": asked.model,
        "videos": None if asked.videos is None else asked.videos.name,
        "settings": dict(asked.settings),
        "options": {name: value for name, value in asked.options.items()},
        "lora": [lora.file for lora in asked.loras],
        "judge_files": {name: {"file": path.name, "sha256": file_sha256(path)} for name, path in asked.judges.items()},
    }
