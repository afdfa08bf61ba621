"""From scores to a training set: annotations of what stays, the reason of what goes, counts after every step."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mindsora.curate import rules
from mindsora.curate.clips import write_lines
from mindsora.curate.engine import load, repeats_file, shards_of
from mindsora.curate.hashes import duplicates
from mindsora.curate.rules import STEPS, UNREADABLE, UNSCORED
from mindsora.curate.stages import Plan
from mindsora.errors import InputError, shown
from mindsora.files import whole_file, write_json

KEPT, DROPPED, FUNNEL, MERGE_FILE = "annotations", "dropped", "funnel.json", "merge.txt"
# Share of Panda-70M that the paper has left after a step, in per cent.
PAPER = {"length": 97, "motion": 89, "text": 89, "aesthetic": 49, "technical": 44, "recheck": 42}
_ROWS = 1000  # of a parquet file's row group, which wait in memory


class Decision(NamedTuple):
    """The steps that a clip passed, and the one that dropped it with the reason (None, None: it stays)."""

    passed: list[str]
    step: str | None
    reason: str | None


def decide(plan: Plan) -> dict[str, Any]:
    """Write KEPT and DROPPED (.jsonl, and .parquet where pyarrow is installed), MERGE_FILE and FUNNEL; return the funnel.

    Raises:
        InputError: the folder has no scores, or cannot be written.
    """
    find_repeats(plan)
    output, count = Path(plan.output), _Count(plan)
    merge = f"{os.path.abspath(plan.root)},{output.absolute() / KEPT}.jsonl"
    if merge.count(",") > 1:
        raise InputError(
            f"{shown(merge)} has a comma in a name, which separates the columns of a merge file; rename it"
        )
    with _writer(output / KEPT) as kept, _writer(output / DROPPED) as dropped:
        for record, decision in decisions(plan):
            count.add(record, decision)
            row = annotation(record, plan.rules, decision)
            (dropped if decision.step else kept)(row)
    with whole_file(output / MERGE_FILE) as temporary:
        temporary.write_text(merge + "\n", encoding="utf-8")
    funnel = count.funnel()
    write_json(output / FUNNEL, funnel)
    return funnel


def decisions(plan: Plan) -> Iterator[tuple[dict, Decision]]:
    """Every record with its decision, in order of the shards."""
    for shard in range(shards_of(plan.output)):
        for record in load(plan, shard):
            yield record, decision_of(record, plan)


def decision_of(record: dict, plan: Plan) -> Decision:
    *passed, last = rules.walk(record, plan.rules, plan.skipped)
    names = [one.step for one in passed]
    return Decision([*names, last.step], None, None) if last.reason is None else Decision(names, last.step, last.reason)


def find_repeats(plan: Plan) -> None:
    """Write which clips repeat an earlier one, among those that the steps before keep."""
    repeats = duplicates((score["value"] for _, score in _hashed(plan)), plan.rules.duplicates.distance)
    firsts, names, number = set(repeats.values()), {}, 0
    for shard in range(shards_of(plan.output)):
        rows = []
        for name, _ in _hashed(plan, shard):
            if number in firsts:
                names[number] = name
            if number in repeats:
                rows.append({"id": name, "other": names[repeats[number]]})
            number += 1
        write_lines(repeats_file(plan, shard), rows)


def _hashed(plan: Plan, only: int | None = None) -> Iterator[tuple[str, dict]]:
    """Name and hashes of the clips that the steps before keep, of all shards or of one."""
    for shard in range(shards_of(plan.output)) if only is None else [only]:
        for record in load(plan, shard):
            score = record["scores"].get("hashes", {})
            if "value" in score and rules.dropped(record, plan.rules, plan.skipped, "hashes") is None:
                yield record["id"], score


def annotation(record: dict, settings: rules.Rules, decision: Decision) -> dict[str, Any]:
    """The record as `mindsora data` reads it, with its scores, its steps and the reason if it is dropped."""
    if "failed" in record and "num_frames" not in record:
        return {"path": record["path"], "step": decision.step, "reason": decision.reason}
    scores, first, length = record["scores"], record["start"], record["num_frames"]
    crop = rules.crop_of(record, settings, "text")
    row = {"path": record["path"], "cap": scores.get("captions", {}).get("value"), "resolution": record["resolution"]}
    row |= {"num_frames": length, "fps": record["fps"], "cut": [first, first + length], "crop": crop and list(crop)}
    row |= {"aesthetic": scores.get("aesthetic", {}).get("value"), "source": record["source"] or None}
    row |= {
        "licence": record["licence"] or None,
        "scores": scores,
        "cuts": record.get("cuts"),
        "facts": record["facts"],
    }
    row |= {"history": decision.passed, "step": decision.step, "reason": decision.reason}
    return {key: value for key, value in row.items() if value is not None}


class _Count:
    """Clips and seconds that reach and pass every step."""

    def __init__(self, plan: Plan):
        self.skipped = plan.skipped
        self.dropped, self.seconds, self.total, self.total_seconds = Counter(), Counter(), 0, 0.0
        self.cropped = Counter()
        self.plan = plan

    def add(self, record: dict, decision: Decision) -> None:
        seconds = record["num_frames"] / record["fps"] if "num_frames" in record else 0.0
        self.total += 1
        self.total_seconds += seconds
        self.dropped[decision.step] += 1
        self.seconds[decision.step] += seconds
        if decision.step is None:
            for stage in ("picture", "text"):
                before = {"picture": None, "text": "picture"}[stage]
                crops = [rules.crop_of(record, self.plan.rules, one) for one in (before, stage)]
                self.cropped[stage] += crops[0] != crops[1]

    def funnel(self) -> dict[str, Any]:
        rows, left, seconds = [], self.total, self.total_seconds
        for name, stage in [(UNREADABLE, None), (UNSCORED, None), *((step.name, step.stage) for step in STEPS)]:
            before = left
            left, seconds = left - self.dropped[name], seconds - self.seconds[name]
            row = {"step": name, "dropped": self.dropped[name], "kept": left, "seconds": round(seconds, 2)}
            row |= {"percent_of_input": _percent(left, self.total), "percent_of_previous": _percent(left, before)}
            row |= {"paper": PAPER[name]} if name in PAPER else {}
            rows.append(row | ({"skipped": self.skipped[stage]} if stage in self.skipped else {}))
        crops = {"bars": self.cropped["picture"], "text": self.cropped["text"]}
        return {"clips": self.total, "seconds": round(self.total_seconds, 2), "steps": rows, "cropped": crops}


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


@contextmanager
def _writer(path: Path) -> Iterator[Any]:
    """Yield a function that writes a row to PATH.jsonl and PATH.parquet; both appear at the end."""
    with ExitStack() as stack:
        lines = stack.enter_context(whole_file(path.with_name(path.name + ".jsonl")))
        file = stack.enter_context(open(lines, "w", encoding="utf-8"))
        table = stack.enter_context(_parquet(path.with_name(path.name + ".parquet")))

        def write(row: dict) -> None:
            file.write(json.dumps(row) + "\n")
            table(row)

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Rows of fixed columns; scores, facts and history as JSON text, because they differ between clips."""
    import pyarrow as pa
    from pyarrow import parquet

    size = pa.struct([("height", pa.int64()), ("width", pa.int64())])
    numbers, texts = pa.list_(pa.int64()), pa.list_(pa.string())
    columns = {"path": pa.string(), "cap": texts, "resolution": size, "num_frames": pa.int64(), "fps": pa.float64()}
    columns |= {"cut": numbers, "crop": numbers, "aesthetic": pa.float64(), "source": pa.string()}
    columns |= {"licence": pa.string(), "step": pa.string(), "reason": pa.string()}
    columns |= dict.fromkeys(("scores", "cuts", "facts", "history"), pa.string())
    schema, waiting = pa.schema(list(columns.items())), []
    as_text = ("scores", "cuts", "facts", "history")
    with whole_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema))
            waiting.clear()

        def write(row: dict) -> None:
            waiting.append(row | {key: json.dumps(row[key]) for key in as_text if key in row})
            if len(waiting) == _ROWS:
                flush()

        yield write
        flush()
