"""Clip records with scores, as the stages of a curation leave them."""

import json
from pathlib import Path

from mindsora.curate import curation, engine
from mindsora.curate.clips import write_lines
from mindsora.curate.judges import JudgeFile
from mindsora.curate.stages import SPANS, Plan, wanted

SIZE = {"height": 720, "width": 1280}
ALL_JUDGES = {name: JudgeFile("judge.py", "0" * 64) for name in ("aesthetic", "technical", "watermark", "unsafe")}


def score(value, judge="test 1", crop=None):
    return {"value": value, "judge": judge} | ({"crop": crop} if crop else {})


def scored(name="a.mp4:0-100", num_frames=100, **values) -> dict:
    """A record that every step keeps, with these scores in place of its own."""
    own = {
        "motion": score(0.01, "lpips vgg16"),
        "picture": score({"black": 0.0, "frozen": 0.0, "flicker": 0.1, "box": None}),
        "text": score({"frames": [0], "boxes": [[]]}),
        "aesthetic": score(5.0),
        "technical": score(0.1),
        "recheck": score(0.01, "lpips vgg16"),
        "hashes": score({"plain": ["0123456789abcdef"] * 5, "mirrored": ["fedcba9876543210"] * 5}),
        "watermark": score(0.0),
        "unsafe": score(0.0),
        "captions": score(["A fox."]),
    }
    path = name.partition(":")[0]
    record = {"id": name, "path": path, "start": 0, "num_frames": num_frames, "fps": 25.0, "resolution": SIZE}
    return record | {"facts": {}, "source": "", "licence": "", "scores": own | values}


def write_curation(folder: Path, records: list[dict], shard: int = 100, **settings) -> Plan:
    """A curation in `folder` whose scores are those of the records."""
    plan = Plan(str(folder / "media"), str(folder), judges=ALL_JUDGES, captioner="files", **settings)
    rows = [{"path": r["path"], "identity": None, "shard": i // shard} for i, r in enumerate(records)]
    write_lines(folder / engine.SOURCES, rows)
    for first in range(0, len(records), shard):
        part = records[first : first + shard]
        spans = [{key: value for key, value in record.items() if key != "scores"} for record in part]
        write_lines(engine.file_of(plan, SPANS[-1], first // shard), spans)
        for stage in wanted(plan):
            if not stage.splits:
                scores = [{"id": r["id"]} | r["scores"][stage.name] for r in part if stage.name in r["scores"]]
                write_lines(engine.file_of(plan, stage, first // shard), scores)
    curation.save(plan)
    return plan


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
