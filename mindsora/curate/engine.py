"""Run the stages over shards of files with Ray Data. The results of a stage and a shard are one file, written whole.

What travels between tasks is the number of a shard; records lie in the output folder. So memory does not grow with the
number of clips, a run that was killed goes on where it was, and a shard that a lost node was working on is done again.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from mindsora.curate import rules
from mindsora.curate.clips import read_lines, write_lines
from mindsora.curate.settings import fingerprint
from mindsora.curate.stages import SPANS, Plan, Stage, key_of, wanted
from mindsora.data.annotations import VIDEO_SUFFIXES
from mindsora.data.loading import limited
from mindsora.errors import InputError, shown

TRIES = 2  # of a clip whose worker died
OBJECT_STORE = 200 * 2**20  # bytes; numbers of shards alone pass through it
SOURCES = "sources.jsonl"


def list_sources(root: Path, output: Path, shard: int) -> None:
    """Write the list of a folder's videos, or add those that are new. Files keep their place, so finished shards stay.

    Raises:
        InputError: no such folder, no video in it, or a listed file has other content now.
    """
    if not root.is_dir():
        raise InputError(f"{shown(str(root))} is no folder; give one with videos")
    files = {path: _identity(root / path) for path in _videos(root)}
    listed = {row["path"]: row for row in read_lines(output / SOURCES)} if (output / SOURCES).exists() else {}
    for path, row in listed.items():
        if path in files and files[path] != row["identity"]:
            raise InputError(f"{shown(path)} has changed since its scores were computed; give another --output")
    new = [path for path in files if path not in listed]
    if not listed and not new:
        raise InputError(f"{shown(str(root))} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    first = 1 + max((row["shard"] for row in listed.values()), default=-1)
    rows = [{"path": path, "identity": files[path], "shard": first + i // shard} for i, path in enumerate(new)]
    if new:
        write_lines(output / SOURCES, [*listed.values(), *rows])


def _videos(root: Path) -> list[str]:
    paths = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sorted(str(path.relative_to(root)) for path in paths if path.name.lower().endswith(VIDEO_SUFFIXES))


def _identity(path: Path) -> list[int] | None:
    """Size and time of a file; None of a link that leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def shards_of(output: str | os.PathLike) -> int:
    """Number of shards."""
    return 1 + max(row["shard"] for row in read_lines(Path(output) / SOURCES))


def file_of(plan: Plan, stage: Stage, shard: int) -> Path:
    """The results of a stage for a shard."""
    return Path(plan.output) / "stages" / key_of(stage, plan) / f"{shard:06}.jsonl"


def load(plan: Plan, shard: int, until: str | None = None) -> Iterator[dict]:
    """The records of a shard with the scores that were computed, of the stages before `until` or of all."""
    stages = [stage for stage in wanted(plan) if not stage.splits]
    if until is not None:
        stages = stages[: [stage.name for stage in stages].index(until)]
    scores = {stage.name: _scores(file_of(plan, stage, shard)) for stage in stages}
    repeats = _scores(repeats_file(plan, shard))
    spans = file_of(plan, SPANS[-1], shard)
    if not spans.exists():
        raise InputError(f"the curation in {shown(plan.output)} is not complete; `mindsora curate run` goes on with it")
    for record in read_lines(spans):
        by_stage = {name: rows[record["id"]] for name, rows in scores.items() if record["id"] in rows}
        repeated = {"duplicate_of": repeats[record["id"]]["other"]} if record["id"] in repeats else {}
        yield record | {"scores": by_stage} | repeated


def repeats_file(plan: Plan, shard: int) -> Path:
    """Which clips of a shard repeat another, written by `mindsora.curate.decide`."""
    return Path(plan.output) / "repeats" / f"{shard:06}.jsonl"


def _scores(path: Path) -> dict[str, dict]:
    return {row.pop("id"): row for row in read_lines(path)} if path.exists() else {}


def run_shard(plan: Plan, stage: Stage, shard: int) -> None:
    """Compute what is missing of a stage's results for a shard."""
    path = file_of(plan, stage, shard)
    if stage.splits:
        if not path.exists():
            with _timed(plan, stage, shard) as clips:
                records = _before(plan, stage, shard)
                clips += records
                write_lines(path, [one for record in records for one in attempt(plan, stage, [record])])
        return
    done, missing = _scores(path), []
    for record in load(plan, shard, stage.name):
        score = done.get(record["id"])
        scored = score is not None and rules.is_current(record, score, stage.name, plan.rules)
        if not scored and rules.dropped(record, plan.rules, plan.skipped, stage.name) is None:
            missing.append(record)
    if not missing and path.exists():
        return
    with _timed(plan, stage, shard) as clips:
        clips += missing
        for i in range(0, len(missing), stage.batch):
            for record in attempt(plan, stage, missing[i : i + stage.batch]):
                done[record["id"]] = record["scores"][stage.name]
    write_lines(path, ({"id": name} | done[name] for name in sorted(done)))


def _before(plan: Plan, stage: Stage, shard: int) -> list[dict]:
    """The records that a splitting stage begins with."""
    place = SPANS.index(stage)
    if place:
        return list(read_lines(file_of(plan, SPANS[place - 1], shard)))
    stated = {"source": plan.source, "licence": plan.licence}
    rows = (row for row in read_lines(Path(plan.output) / SOURCES) if row["shard"] == shard)
    return [{"id": row["path"], "path": row["path"], "scores": {}} | stated for row in rows]


def attempt(plan: Plan, stage: Stage, batch: list[dict]) -> list[dict]:
    """A stage on a batch in bounded time. A clip of which TRIES workers died is given up, so that the others go on.

    A file counts the attempts; it outlives the process, and goes when the attempt ends in any other way.
    """
    if len(batch) > 1:
        return stage(batch, plan)
    (record,) = batch
    counter = Path(plan.output) / "attempts" / fingerprint([key_of(stage, plan), record["id"]])
    counter.parent.mkdir(exist_ok=True)
    if counter.exists() and counter.stat().st_size >= TRIES:
        return [stage.failed(record, plan, f"{TRIES} workers died of it in the stage {stage.name}")]
    with open(counter, "ab") as file:
        file.write(b".")
    try:
        with limited(plan.seconds):
            return stage(batch, plan)
    except InputError as error:  # out of time
        return [stage.failed(record, plan, str(error))]
    except MemoryError:
        return [stage.failed(record, plan, f"the stage {stage.name} has not enough memory for it")]
    finally:
        counter.unlink(missing_ok=True)


@contextmanager
def _timed(plan: Plan, stage: Stage, shard: int) -> Iterator[list]:
    """Yield a list for the records worked on; write their number and the seconds."""
    clips, start = [], time.perf_counter()
    yield clips
    row = {"clips": len(clips), "seconds": round(time.perf_counter() - start, 4)}
    path = Path(plan.output) / "timings" / stage.name / f"{shard:06}.jsonl"
    write_lines(path, [*(read_lines(path) if path.exists() else ()), row])


class Task:
    """A stage as Ray's map function: a batch of numbers of shards passes through it."""

    def __init__(self, plan: Plan, stage: str):
        self.plan, self.stage = plan, stage

    def __call__(self, batch: dict) -> dict:
        (stage,) = (stage for stage in wanted(self.plan) if stage.name == self.stage)
        for shard in batch["id"]:
            run_shard(self.plan, stage, int(shard))
        return batch


def run_stages(plan: Plan, stages: list[Stage]) -> None:
    """Run stages over all shards, on the Ray that `cluster` started."""
    import ray

    shards = shards_of(plan.output)
    data = ray.data.range(shards, override_num_blocks=shards)
    for stage in stages:
        data = data.map_batches(Task(plan, stage.name), batch_size=1, num_cpus=stage.cpus)
    for _ in tqdm(data.iter_batches(batch_size=1, prefetch_batches=0), "curating shards", shards, disable=None):
        pass


@contextmanager
def cluster(workers: int, address: str | None = None) -> Iterator[None]:
    """A Ray on this machine with so many cores, or the running one at `address`. A Ray that the program has is used.

    Raises:
        InputError: Ray is not installed, or there is none at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing anywhere
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("`mindsora curate run` needs Ray: pip install 'mindsora[curate]'") from error
    if ray.is_initialized():
        yield
        return
    local = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else local))
    except Exception as error:  # Ray raises plain Exceptions where a machine is too busy to start it in time
        where = f"no Ray answers at {shown(address)}" if address else "Ray did not start on this machine"
        raise InputError(f"{where}: {shown(error, quote=False)}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
