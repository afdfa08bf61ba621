"""The report of an evaluation (JSON), and two of them side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.intervals import interval, paired_interval
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Measure, Row, Score
from mindsora.files import write_json
from mindsora.ranges import fits, kind_of

FORMAT = "mindsora evaluation 1"
MAX_REPORT = 256 * 2**20  # bytes
# What a report that is read must have.
PARTS = {
    "evaluation": str, "about": str, "complete": bool, "missing": tuple[str, ...], "unreadable": dict[str, str],
    "notes": tuple[str, ...], "scores": dict[str, dict], "judges": dict[str, dict], "clips": tuple[dict, ...],
}  # fmt: skip
SCORE_PARTS = {
    "value": float | None, "low": float | None, "high": float | None, "clips": int, "unit": str,
    "higher_is_better": bool | None, "judge": dict,
}  # fmt: skip
JUDGE_PARTS = {"name": str, "version": str, "kind": str, "sha256": str | None}
CLIP_PARTS = {
    "name": str, "prompts": tuple[str, ...], "seed": int, "group": str, "facts": dict, "files": tuple[str, ...],
    "values": dict[str, float | None], "cost": dict[str, float], "error": str | None,
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """What a report needs to know of an evaluation."""

    name: str
    about: str
    thresholds: Mapping[str, float]


def build(
    evaluation: Evaluation | Named,
    about: dict,
    measures: Sequence[Measure],
    scores: Sequence[Score],
    rows: Sequence[Row],
) -> dict:
    """The content of a report.

    Args:
        about: of the run: model or videos, settings, date.

    Returns:
        `complete` is false where a judge is missing or a clip could not be judged; `missing` and `unreadable` name them.
        A score has its value, a 95 % interval, the number of clips behind it, its judge and its threshold.
    """
    judged = [row for row in rows if row.error is None]
    absent = [measure.name for measure in measures if measure.missing]
    unreadable = {row.item.name: row.error for row in rows if row.error is not None}
    return (
        {"format": FORMAT, "evaluation": evaluation.name, "about": evaluation.about}
        | about
        | {
            "complete": not absent and not unreadable,
            "missing": absent,
            "unreadable": unreadable,
            "items": len(rows),
            "seeds": sorted({row.item.seed for row in rows}),
            "scores": {score.name: _score(score, judged, evaluation.thresholds.get(score.name)) for score in scores},
            "judges": {measure.name: _judge(measure.judge) for measure in measures},
            "bounds": {measure.name: [_json(bound) for bound in measure.bounds] for measure in measures},
            "clips": [_clip(row) for row in rows],
        }
    )


def _score(score: Score, rows: Sequence[Row], threshold: float | None) -> dict:
    value = score.of_rows(rows) if rows else None
    bounds = interval(rows, score.of_rows) if score.bootstrapped and value is not None else None
    entry = {
        "value": value,
        "low": bounds and bounds[0],
        "high": bounds and bounds[1],
        "clips": sum(row.values.get(score.name, True) is not None for row in rows),
        "unit": score.unit,
        "higher_is_better": score.higher_is_better,
        "judge": _judge(score.judge),
    }
    if threshold is not None:
        reached = value is not None and (value >= threshold if score.higher_is_better else value <= threshold)
        entry |= {"threshold": threshold, "reached": reached}
    return entry


def _judge(judge) -> dict:
    return {"name": judge.name, "version": judge.version, "kind": judge.kind, "sha256": judge.sha256}


def _json(bound: float) -> float | None:
    """JSON has no infinity: null is no bound."""
    return bound if abs(bound) < float("inf") else None


def _clip(row: Row) -> dict:
    item = row.item
    return {
        "name": item.name,
        "prompts": list(item.prompts),
        "seed": item.seed,
        "group": item.unit,
        "facts": item.facts,
        "files": list(row.files),
        "values": row.values,
        "cost": row.cost,
        "error": row.error,
    }


def write(path: str | os.PathLike, content: dict) -> None:
    """Write a report. InputError: the file cannot be written."""
    write_json(path, content)


def read(path: str | os.PathLike) -> dict:
    """A report, from its file or the folder that holds it.

    Raises:
        InputError: no report.
    """
    path = Path(path)
    path = path / "report.json" if os.path.isdir(path) else path
    content = read_json(path, MAX_REPORT)
    if content.get("format") != FORMAT:
        raise InputError(f"{shown(path)} is no report: its format is {shown(content.get('format'))}, not {FORMAT!r}")
    _check(path, "the report", content, PARTS)
    for name, score in content["scores"].items():
        _check(path, f"score {shown(name)}", score, SCORE_PARTS)
        _check(path, f"the judge of score {shown(name)}", score["judge"], JUDGE_PARTS)
        if score["low"] is not None and (score["high"] is None or score["value"] is None):
            raise InputError(f"{shown(path)}: score {shown(name)} has half an interval; it is no whole report")
    for name, judge in content["judges"].items():
        _check(path, f"the judge of {shown(name)}", judge, JUDGE_PARTS)
    for number, clip in enumerate(content["clips"]):
        _check(path, f"clip {number}", clip, CLIP_PARTS)
    if absent := [name for name in content["missing"] if name not in content["judges"]]:
        raise InputError(f"{shown(path)}: {shown(absent[0])} is missing from judges; it is no whole report")
    return content


def _check(path: Path, what: str, part: dict, kinds: Mapping[str, object]) -> None:
    for name, kind in kinds.items():
        if not fits(part.get(name), kind):
            raise InputError(f"{shown(path)}: {name} of {what} must be of type {kind_of(kind)}; it is no whole report")
    numbers = [*part.values(), *(part["values"].values() if "values" in part else ())]
    if any(isinstance(number, int) and abs(number) > 2**53 for number in numbers):
        raise InputError(f"{shown(path)}: a number of {what} is beyond 2**53, which no measure gives")


def rows_of(content: dict) -> list[Row]:
    """The rows of a report that was read."""
    return [
        Row(
            Item(clip["name"], tuple(clip["prompts"]), clip["seed"], clip["facts"], clip["group"]),
            clip["values"],
            clip["cost"],
            clip["error"],
            files=tuple(clip["files"]),
        )
        for clip in content["clips"]
    ]


def compare(first: dict, second: dict) -> dict:
    """Mean of every measure in both reports, and their difference (second less first) on the items that both judged.

    Raises:
        InputError: reports of two evaluations, or without a common item.
    """
    if first["evaluation"] != second["evaluation"]:
        raise InputError(
            f"reports of {shown(first['evaluation'])} and {shown(second['evaluation'])}: give two of one evaluation"
        )
    others = {(row.item.name, row.item.seed): row for row in rows_of(second) if row.error is None}
    pairs = [
        (row, others[key])
        for row in rows_of(first)
        if row.error is None and (key := (row.item.name, row.item.seed)) in others
    ]
    if not pairs:
        raise InputError("the two reports have no judged item in common; evaluate both on the same items")
    names = [name for name in first["judges"] if any(name in a.values and name in b.values for a, b in pairs)]
    return {
        "evaluation": first["evaluation"],
        "complete": first["complete"] and second["complete"],
        "items": len(pairs),
        "measures": {name: _difference(name, pairs, first, second) for name in names},
    }


def _difference(name: str, pairs: Sequence[tuple[Row, Row]], first: dict, second: dict) -> dict:
    """Only clips that the measure applies to in both reports count, so that every difference is of one clip with itself."""
    both = [(a, b) for a, b in pairs if a.values.get(name) is not None and b.values.get(name) is not None]

    def mean(rows: Sequence[Row]) -> float | None:
        values = [row.values[name] for row in rows]
        return sum(values) / len(values) if values else None

    a, b = mean([pair[0] for pair in both]), mean([pair[1] for pair in both])
    bounds = paired_interval(both, mean) if both else None
    same = first["judges"][name] == second["judges"].get(name)
    return {
        "first": a,
        "second": b,
        "difference": None if a is None else b - a,
        "low": bounds and bounds[0],
        "high": bounds and bounds[1],
        "clips": len(both),
        "same_judge": same,
    }


def lines(content: dict) -> list[str]:
    """What the command prints of a report."""
    out = []
    for name, score in content["scores"].items():
        wanted = ""
        if "threshold" in score:
            sign = ">=" if score["higher_is_better"] else "<="
            wanted = f" (wanted: {sign} {score['threshold']:g}{'' if score['reached'] else ', NOT REACHED'})"
        kind = "" if score["judge"]["kind"] == "exact" else f" [{score['judge']['kind']}: {score['judge']['name']}]"
        out.append(f"{name:28} {_value(score)}{wanted}{kind}")
    out += [f"{name:28} missing: needs {content['judges'][name]['name']}" for name in content["missing"]]
    out += [f"not judged: {shown(name)}: {error}" for name, error in content["unreadable"].items()]
    return [*out, *content["notes"], f"complete: {str(content['complete']).lower()}"]


def _value(score: dict) -> str:
    if score["value"] is None:
        return "no value"
    bounds = "" if score["low"] is None else f" [{score['low']:.4g}, {score['high']:.4g}]"
    return f"{score['value']:.4f}{bounds} {score['unit']}".rstrip()


def compared_lines(compared: dict) -> list[str]:
    """What the command prints of two reports."""
    out = [f"{'measure':28} {'first':>10} {'second':>10} {'difference':>11}  95 % interval, paired"]
    for name, entry in compared["measures"].items():
        bounds = "" if entry["low"] is None else f"[{entry['low']:+.4f}, {entry['high']:+.4f}]"
        note = "" if entry["same_judge"] else "  (two judges: not comparable)"
        out.append(
            f"{name:28} {entry['first']:10.4f} {entry['second']:10.4f} {entry['difference']:+11.4f}  {bounds}{note}"
        )
    return [*out, f"{compared['items']} items in both; complete: {str(compared['complete']).lower()}"]


def write_compared(folder: str | os.PathLike, paths: Sequence[str], reports: tuple[dict, dict]) -> Path:
    """Write compared.json and the page compared.html with the clips of both. Returns the page's path."""
    from mindsora.evaluate.page import write_page
    from mindsora.media import check_output

    compared, page = compare(*reports), check_output(Path(folder) / "compared.html", [".html"])
    write_json(page.with_suffix(".json"), compared)
    previews = [(Path(path) if os.path.isdir(path) else Path(path).parent) / "previews" for path in paths]
    write_page(page, reports, previews, compared)
    return page


def reached(content: dict) -> bool:
    """Whether every threshold of a report is reached."""
    return all(score.get("reached", True) for score in content["scores"].values())
