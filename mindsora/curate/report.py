"""One HTML page on a curation: what every step keeps, beside the paper's numbers; scores; pictures; speed."""

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mindsora.config import read_json
from mindsora.curate import rules, sheets
from mindsora.curate.clips import read_lines
from mindsora.curate.decide import FUNNEL, decisions
from mindsora.curate.stages import Plan, wanted
from mindsora.errors import InputError, shown
from mindsora.files import whole_file

PAGE = "report.html"
SHEET_CLIPS = 8  # on the page, for each reason
NAMED = 200  # failures on the page; all of them are in dropped.jsonl
BINS = 24
_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}figure{display:inline-block;margin:.5em}svg rect{fill:#47a}"
)


def report(plan: Plan) -> Path:
    """Write PAGE for the last decision, and return its path.

    Raises:
        InputError: nothing was decided yet.
    """
    output = Path(plan.output)
    if not (output / FUNNEL).is_file():
        raise InputError(f"{shown(plan.output)} has no decision yet; run `mindsora curate decide {plan.output}`")
    facts = _Facts(plan)
    parts = [
        "<h1>Curation</h1>",
        _facts(plan),
        "<h2>What every step keeps</h2>",
        _table(FUNNEL_HEAD, funnel_rows(read_json(output / FUNNEL))),
        "<p>The paper's numbers are of Panda-70M, cumulative, in per cent of its slices. They compare with the column "
        "“of input”; data and judges differ.</p>",
        "<h2>What stays</h2>",
        *(_table((name, "clips"), sorted(counts.items())) for name, counts in facts.coverage.items()),
        "<p>People and camera motion have no judge here and are not counted.</p>",
        "<h2>Scores</h2>",
        *(_histogram(name, values) for name, values in sorted(facts.scores.items())),
        "<h2>Speed</h2>",
        _table(("stage", "clips", "seconds of one core", "clips per second"), speed_rows(plan)),
        "<h2>Failures</h2>",
        f"<p>{facts.failures} files or clips; the first {NAMED} here, all of them in dropped.jsonl.</p>",
        "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in facts.failed) + "</ul>",
        "<h2>Examples</h2>",
        *(_figure(plan, reason, clips) for reason, clips in facts.examples.items()),
    ]
    page = f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Curation</title><style>{_STYLE}</style>"
    with whole_file(output / PAGE) as temporary:
        temporary.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")
    return output / PAGE


FUNNEL_HEAD = ("step", "dropped", "kept", "hours kept", "of previous %", "of input %", "paper %", "")


def funnel_rows(funnel: dict[str, Any]) -> list[tuple]:
    """The rows of FUNNEL_HEAD."""
    rows = [("input", 0, funnel["clips"], _hours(funnel["seconds"]), "", 100.0, 100, "")]
    for row in funnel["steps"]:
        note = f"skipped: no judge ({row['skipped']})" if "skipped" in row else ""
        numbers = (
            row["dropped"],
            row["kept"],
            _hours(row["seconds"]),
            row["percent_of_previous"],
            row["percent_of_input"],
        )
        rows.append((row["step"], *numbers, row.get("paper", ""), note))
    return rows


def text_table(head: Iterable[str], rows: Iterable[tuple]) -> str:
    """A table for the terminal."""
    cells = [tuple(map(str, row)) for row in (tuple(head), *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip() for row in cells)


def speed_rows(plan: Plan) -> list[tuple]:
    """For each stage the clips worked on in all runs, the seconds of one core, and their ratio."""
    rows = []
    for stage in wanted(plan):
        files = sorted((Path(plan.output) / "timings" / stage.name).glob("*.jsonl"))
        runs = [row for path in files for row in read_lines(path)]
        clips, seconds = sum(row["clips"] for row in runs), sum(row["seconds"] for row in runs)
        rows.append((stage.name, clips, round(seconds, 2), round(clips / seconds, 2) if seconds else ""))
    return rows


class _Facts:
    """What one pass over the decisions gives the page. Memory: the scores as numbers, a few records."""

    def __init__(self, plan: Plan):
        self.scores: dict[str, list[float]] = defaultdict(list)
        self.coverage: dict[str, Counter] = {"aspect": Counter(), "duration": Counter(), "motion": Counter()}
        self.failures, self.failed = 0, []
        self.examples: dict[str, list[tuple[dict, str]]] = {}
        for record, decision in decisions(plan):
            reason = decision.step or sheets.KEPT
            examples = self.examples.setdefault(reason, [])
            if len(examples) < SHEET_CLIPS:
                examples.append((record, sheets.line(record, decision.reason)))
            if reason == rules.UNREADABLE:
                self._fail(sheets.line(record, decision.reason))
            for name, value in _numbers(record):
                self.scores[name].append(value)
            if decision.step is None:
                self._cover(record, plan)

    def _fail(self, line: str) -> None:
        self.failures += 1
        if len(self.failed) < NAMED:
            self.failed.append(line)

    def _cover(self, record: dict, plan: Plan) -> None:
        size, seconds = record["resolution"], record["num_frames"] / record["fps"]
        left, right, top, bottom = rules.crop_of(record, plan.rules, "text") or (0, size["width"], 0, size["height"])
        ratio = (right - left) / (bottom - top)
        self.coverage["aspect"]["wide" if ratio > 1.1 else "tall" if ratio < 0.9 else "square"] += 1
        self.coverage["duration"][next((f"under {s} s" for s in (2, 4, 8, 16) if seconds < s), "16 s or more")] += 1
        self.coverage["motion"][_motion_class(record, plan)] += 1


def _motion_class(record: dict, plan: Plan) -> str:
    """Third of the allowed range of motion, on a logarithmic scale."""
    score = record["scores"].get("motion", {})
    if not score.get("value"):
        return "unknown"
    low, high = rules.bounds_of(score["judge"], plan.rules.motion)
    place = np.log(score["value"] / max(low, 1e-6)) / np.log(max(high, 1e-5) / max(low, 1e-6))
    return ("little", "medium", "much")[int(np.clip(3 * place, 0, 2))]


def _numbers(record: dict) -> list[tuple[str, float]]:
    """(name, number) of the scores that are numbers."""
    numbers = []
    for stage, score in record.get("scores", {}).items():
        value = score.get("value")
        for key, one in (value if isinstance(value, dict) else {"": value}).items():
            if isinstance(one, (int, float)):
                numbers.append((f"{stage}.{key}".rstrip("."), float(one)))
    return numbers


def _facts(plan: Plan) -> str:
    judges = ", ".join(f"{stage.name}: {stage.judge(plan)} (version {stage.version})" for stage in wanted(plan))
    skipped = "".join(f"<li>{escape(name)}: {escape(need)}</li>" for name, need in plan.skipped.items())
    return (
        f"<p>Judges: {escape(judges)}.</p><p>Stages without a judge, which dropped nothing:</p><ul>{skipped}</ul>"
        f"<p>Licence: {escape(plan.licence or 'not stated')}. Source: {escape(plan.source or 'not stated')}.</p>"
    )


def _table(head: Iterable[str], rows: Iterable[tuple]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _histogram(name: str, values: list[float]) -> str:
    counts, edges = np.histogram(values, BINS)
    bars = "".join(
        f"<rect x={10 * i} y={60 - 60 * n / max(counts):.1f} width=9 height={60 * n / max(counts):.1f} />"
        for i, n in enumerate(counts)
    )
    caption = f"{escape(name)}: {edges[0]:.4g} to {edges[-1]:.4g}, {len(values)} clips"
    return f"<figure><svg width={10 * BINS} height=60>{bars}</svg><figcaption>{caption}</figcaption></figure>"


def _figure(plan: Plan, reason: str, clips: list[tuple[dict, str]]) -> str:
    path = sheets.sheet(plan, reason, [record for record, _ in clips], [label for _, label in clips])
    if path is None:
        return f"<h3>{escape(reason)}</h3><p>{escape('; '.join(label for _, label in clips))}</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h3>{escape(reason)}</h3><img alt="{escape(reason)}" src="data:image/png;base64,{data}">'


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.4g}"
