"""A curation in an output folder: run it, decide again under other rules."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mindsora.config import read_json
from mindsora.curate.decide import decide, find_repeats
from mindsora.curate.engine import cluster, list_sources, run_stages
from mindsora.curate.judges import JudgeFile
from mindsora.curate.settings import Measures, Rules, changed, section_of
from mindsora.curate.stages import BEFORE_DUPLICATES, SPANS, Plan, wanted
from mindsora.errors import InputError, shown
from mindsora.files import claimed, write_json

PLAN, LOCK = "plan.json", "curation"


def run(plan: Plan, workers: int = 1, address: str | None = None, shard: int = 16) -> dict[str, Any]:
    """Compute the scores that are missing, then decide. Returns the counts after every step.

    Args:
        workers: cores of the Ray that is started on this machine.
        address: of a running Ray cluster, whose nodes see both folders under the same paths; None starts one.
        shard: files of one task.

    Raises:
        InputError: no video, a changed file, another run on the output folder, or no Ray.
    """
    output = _made(Path(plan.output))
    with claimed(output / LOCK):
        list_sources(Path(plan.root), output, shard)
        for counter in (output / "attempts").glob("*"):  # of a run that was killed: the file need not be the cause
            counter.unlink()
        save(plan)
        first = [stage for stage in wanted(plan) if stage in (*SPANS, *BEFORE_DUPLICATES)]
        rest = [stage for stage in wanted(plan) if stage not in first]
        with cluster(workers, address):
            run_stages(plan, first)
            if rest:
                find_repeats(plan)
                run_stages(plan, rest)
        return decide(plan)


def decide_again(output: str | os.PathLike, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Decide over the scores of `output` under its last rules with some changed; `assignments` are section.key=value.

    Raises:
        InputError: no curation in the folder, or a setting that changes scores.
    """
    plan = opened(output)
    measures, rules = changed(plan.measures, plan.rules, assignments)
    if measures != plan.measures:
        raise InputError(f"--set {' '.join(assignments)}: this changes scores; give it to `mindsora curate run`")
    plan = replace(plan, rules=rules)
    with claimed(Path(output) / LOCK):
        save(plan)
        return decide(plan)


def save(plan: Plan) -> None:
    """Write the plan beside its results."""
    write_json(Path(plan.output) / PLAN, asdict(plan) | {"judges": {k: list(v) for k, v in plan.judges.items()}})


def opened(output: str | os.PathLike) -> Plan:
    """The plan of an output folder, which may have moved.

    Raises:
        InputError: there is none.
    """
    if not (Path(output) / PLAN).is_file():
        raise InputError(f"{shown(str(output))} holds no curation; make one with `mindsora curate run`")
    content = read_json(Path(output) / PLAN)
    settings = {"measures": section_of(Measures, content["measures"]), "rules": section_of(Rules, content["rules"])}
    judges = {name: JudgeFile(*judge) for name, judge in content["judges"].items()}
    return Plan(**content | settings | {"judges": judges, "output": str(output)})


def _made(output: Path) -> Path:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {shown(str(output))}: {error.strerror}") from error
    return output
