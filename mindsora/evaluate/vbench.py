"""VBench (arXiv 2311.17982): 16 dimensions and three totals; results of the original program, also of VBench-I2V.

    mindsora evaluate vbench --model MODEL --prompts VBench_full_info.json --output DIR
    mindsora evaluate vbench --videos DIR --output DIR

The prompts are VBench's own file, from the package vbench. Without it every video of a folder is judged in the dimensions
that need no prompt. A total is given only where every dimension was judged as VBench does: none missing, none by a proxy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mindsora.config import parse_json, read_json
from mindsora.errors import InputError, shown
from mindsora.evaluate import vbench_arithmetic as arithmetic
from mindsora.evaluate.clips import Unreadable, clips_in
from mindsora.evaluate.evaluation import Asked, Evaluation
from mindsora.evaluate.items import Item, videos_of
from mindsora.evaluate.measures import Clip, Judge, Judges, Measure, Row, Score, missing
from mindsora.evaluate.networks import Network
from mindsora.evaluate.vbench_arithmetic import DIMENSIONS, I2V, QUALITY
from mindsora.evaluate.vbench_judges import (
    DIS,
    LEAST_FLOW,
    Answers,
    Flow,
    amt_interpolation,
    clip_input,
    dino_input,
    dis_flow,
    features,
    musiq_input,
    raft_flow,
)
from mindsora.files import file_sha256
from mindsora.media import export_to_video
from mindsora.ranges import fits

VIDEOS, FLICKERING_VIDEOS = 5, 25  # a prompt; of temporal flickering more, since the static filter drops some
# Of single clips; the linear head of aesthetics has none.
BOUNDS = {"aesthetic_quality": (-float("inf"), float("inf"))} | dict.fromkeys(
    ("appearance_style", "temporal_style", "overall_consistency"), (-1.0, 1.0)
)


# Items


def read_prompts(path: str | os.PathLike) -> tuple[Item, ...]:
    """An item for every video of every prompt of VBench's file: `PROMPT-0` and so on, seed = number.

    Raises:
        InputError: a file of another form.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)} is not JSON: {shown(error, quote=False)}") from None
    if not isinstance(content, list) or not content:
        raise InputError(f"{shown(path)} must hold a list of prompts, as VBench_full_info.json does")
    items: dict[str, Item] = {}
    for item in (item for entry in content for item in _items(entry, path)):
        items[item.name] = _joined(items[item.name], item) if item.name in items else item
    return tuple(items.values())


def _joined(first: Item, second: Item) -> Item:
    """The item of a prompt that stands in the file twice, for different dimensions, as two of VBench's do."""
    dimensions = {"dimensions": first.facts["dimensions"] + second.facts["dimensions"]}
    return replace(first, facts=first.facts | second.facts | dimensions)


def _items(entry: object, path: str | os.PathLike) -> Iterable[Item]:
    prompt = entry.get("prompt_en") if isinstance(entry, dict) else None
    dimensions = entry.get("dimension") if isinstance(entry, dict) else None
    known = DIMENSIONS | I2V
    if not fits(prompt, str) or not fits(dimensions, tuple[str, ...]) or not set(dimensions) <= known.keys():
        raise InputError(f"{shown(path)}: {shown(entry)} needs prompt_en and dimension, of {', '.join(known)}")
    facts = {"dimensions": dimensions} | _auxiliary(entry.get("auxiliary_info", {}))
    count = FLICKERING_VIDEOS if dimensions == ["temporal_flickering"] else VIDEOS
    return [Item(f"{prompt}-{number}", (prompt,), number, facts, prompt) for number in range(count)]


def _auxiliary(info: object) -> dict:
    """{dimension: {key: value}}; VBench nests some of them once more: {"scene": {"scene": {"scene": "alley"}}}."""
    if not isinstance(info, dict):
        raise InputError(f"auxiliary_info {shown(info)} must be an object")
    return {name: value.get(name, value) if _nested(name, value) else value for name, value in info.items()}


def _nested(name: str, value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get(name), dict)


def clips(asked: Asked) -> Iterable[Clip | Unreadable] | None:
    """The clips of VBench's prompts, generated first where a model is asked for; or all videos of a folder."""
    if (asked.model is None) == (asked.videos is None):
        raise InputError("`mindsora evaluate vbench` takes --model or --videos, one of them, or --import")
    if asked.items is None:
        if asked.videos is None:
            raise InputError(
                "`mindsora evaluate vbench` generates from --prompts VBench_full_info.json, which the package vbench has: "
                "pip download --no-deps vbench==0.1.5"
            )
        files = videos_of(asked.videos)
        return clips_in(files, [Item(stem, (stem,), facts={"dimensions": list(QUALITY)}) for stem in files])
    items = read_prompts(asked.items)
    if asked.videos is not None:
        return clips_in(videos_of(asked.videos), _looked_up(items))
    from mindsora.evaluate.generation import CLIPS, generate

    if generate(EVALUATION, items, asked):
        return None
    return clips_in(videos_of(asked.output / CLIPS), items)


def _looked_up(items: Sequence[Item]) -> list[Item]:
    """Of a folder made by anybody, VBench looks for the first five videos of every prompt."""
    return [item for item in items if item.seed < VIDEOS]


# Measures


def measures(judges: Judges) -> tuple[Measure, ...]:
    """All 16 dimensions."""
    flow, flow_judge = _flow(judges)
    net = {name: Network(judges[name], name) for name in ("dino", "clip", "aesthetic", "musiq") if name in judges}
    answers = {name: Answers(judges[name]) for name in ANSWERS if name in judges}
    return (
        _of(net, "dino", "subject_consistency", lambda n, clip: _consistency(n, dino_input, clip)),
        _of(net, "clip", "background_consistency", lambda n, clip: _consistency(n, clip_input, clip)),
        _dimension("temporal_flickering", _filtered(flow_judge), lambda clip: _flickering(flow, clip)),
        _smoothness(judges),
        _dimension("dynamic_degree", flow_judge, lambda clip: _dynamic(flow, clip)),
        _of(net, "aesthetic", "aesthetic_quality", lambda n, clip: features(n, clip_input, clip.frames).mean() / 10),
        _of(net, "musiq", "imaging_quality", lambda n, clip: features(n, musiq_input, clip.frames).mean() / 100),
        *(_answered(answers, judge, name, score) for name, (judge, score) in SEMANTICS.items()),
    )


def _dimension(name: str, judge: Judge, of_clip: Callable[[Clip], float | None]) -> Measure:
    """A measure of the clips whose prompt belongs to the dimension."""

    def value(clip: Clip) -> float | None:
        return of_clip(clip) if name in clip.item.facts["dimensions"] else None

    return Measure(name, judge, value, BOUNDS.get(name, (0.0, 1.0)))


def _of(networks: Mapping[str, Network], network: str, name: str, score: Callable) -> Measure:
    if network not in networks:
        return missing(name, f"--judge {network}=FILE.onnx")
    return _dimension(name, networks[network].judge, lambda clip: score(networks[network], clip))


def _answered(answers: Mapping[str, Answers], judge: str, name: str, score: Callable) -> Measure:
    if judge not in answers:
        return missing(name, f"--judge {judge}=FILE.json")
    return _dimension(name, answers[judge].judge, answers[judge].scored(score))


def _flow(judges: Judges) -> tuple[Flow, Judge]:
    if "raft" not in judges:
        return dis_flow, DIS
    network = Network(judges["raft"], "raft", 2)
    return raft_flow(network), network.judge


def _filtered(flow: Judge) -> Judge:
    """Flickering itself is exact; which clips are static is what the flow says."""
    return replace(flow, name=f"mean absolute difference, static clips by {flow.name}")


def _motions(flow: Flow, frames: np.ndarray, share: float) -> list[float]:
    pairs = zip(frames[:-1], frames[1:], strict=True)
    return [arithmetic.largest_motion(flow(a, b), share) for a, b in pairs]


def _flickering(flow: Flow, clip: Clip) -> float | None:
    """None for a clip that moves: the static filter drops it."""
    frames, short = clip.frames, min(clip.frames.shape[1:3])
    if len(frames) < 2 or short < LEAST_FLOW:
        return None
    ends = [arithmetic.largest_motion(flow(*pair), 0.02) for pair in ((frames[0], frames[-1]), (frames[-1], frames[0]))]
    static = arithmetic.is_static(_motions(flow, frames, 0.02), ends, len(frames), short)
    return arithmetic.flickering(frames) if static else None


def _dynamic(flow: Flow, clip: Clip) -> float | None:
    short = min(clip.frames.shape[1:3])
    if short < LEAST_FLOW:
        return None
    frames = clip.frames[arithmetic.eight_a_second(len(clip.frames), clip.fps)]
    return float(arithmetic.is_dynamic(_motions(flow, frames, 0.05), len(frames), short))


def _consistency(network: Network, prepare: Callable, clip: Clip) -> float | None:
    return arithmetic.consistency(features(network, prepare, clip.frames))


def _smoothness(judges: Judges) -> Measure:
    if "amt" not in judges:
        return missing("motion_smoothness", "--judge amt=FILE.onnx")
    network = Network(judges["amt"], "amt", 2)
    interpolate = amt_interpolation(network)
    return _dimension("motion_smoothness", network.judge, lambda clip: arithmetic.smoothness(clip.frames, interpolate))


def _object(clip: Clip, frames: list) -> float:
    labels = [{thing["label"] for thing in frame} for frame in frames]
    return arithmetic.share_with(labels, [clip.item.facts["object_class"]["object"]])


def _objects(clip: Clip, frames: list) -> float:
    wanted = [part.strip() for part in clip.item.facts["multiple_objects"]["object"].split(" and ")]
    return arithmetic.share_with([{thing["label"] for thing in frame} for frame in frames], wanted)


def _colour(clip: Clip, frames: list) -> float | None:
    colour = clip.item.facts["color"]["color"]
    thing = clip.item.prompts[0].replace("a ", "").replace("an ", "").replace(colour, "").strip()
    pairs = [[(each["label"], each["caption"]) for each in frame] for frame in frames]
    return arithmetic.right_colour(pairs, thing, colour)


def _spatial(clip: Clip, frames: list) -> float:
    facts = clip.item.facts["spatial_relationship"]
    boxes = [[(thing["label"], thing["box"]) for thing in frame] for frame in frames]
    return arithmetic.spatial(boxes, facts["object_a"], facts["object_b"], facts["relationship"])


def _action(clip: Clip, confidences: dict) -> float:
    return arithmetic.right_action(confidences, clip.item.prompts[0].lower().split("person is ")[-1])


SEMANTICS: dict[str, tuple[str, Callable]] = {
    "object_class": ("grit", _object),
    "multiple_objects": ("grit", _objects),
    "human_action": ("umt", _action),
    "color": ("grit", _colour),
    "spatial_relationship": ("grit", _spatial),
    "scene": ("tag2text", lambda clip, captions: arithmetic.scene(captions, clip.item.facts["scene"]["scene"])),
    "appearance_style": ("clip_text", lambda clip, logits: float(np.mean(logits)) / 100),
    "temporal_style": ("viclip", lambda clip, cosine: float(cosine)),
    "overall_consistency": ("viclip", lambda clip, cosine: float(cosine)),
}
ANSWERS = ("grit", "tag2text", "umt", "clip_text", "viclip")
JUDGES = ("raft", "amt", "dino", "clip", "aesthetic", "musiq", *ANSWERS)


# Scores


def scores(found: tuple[Measure, ...]) -> tuple[Score, ...]:
    """Every dimension over all clips; the totals, where no dimension is missing or judged by a proxy."""
    there = [measure for measure in found if not measure.missing]
    out = [Score(measure.name, measure.judge, _dimension_score(measure.name)) for measure in there]
    return (*out, *_totals({measure.name: measure.judge for measure in there}, _dimension_score))


def _dimension_score(name: str) -> Callable[[Sequence[Row]], float | None]:
    dimension = (DIMENSIONS | I2V)[name]

    def score(rows: Sequence[Row]) -> float | None:
        rows = [row for row in rows if row.values.get(name) is not None]
        if name == "temporal_flickering":
            rows = first_five(rows)
        if not rows:
            return None
        # A mean over frames, as one device has it; the first frame has none before it.
        weights = [max(row.frames - (name != "appearance_style"), 1) for row in rows] if dimension.pooled else None
        return float(np.average([row.values[name] for row in rows], weights=weights))

    return score


def first_five(rows: Sequence[Row]) -> list[Row]:
    """The first five static clips of every prompt; of a folder without prompts, all."""
    taken: dict[str, int] = {}
    out = []
    for row in rows:
        taken[row.item.unit] = taken.get(row.item.unit, 0) + 1
        if taken[row.item.unit] <= VIDEOS:
            out.append(row)
    return out


def _totals(judges: Mapping[str, Judge], dimension_score: Callable) -> list[Score]:
    """The totals of the suites of which every dimension was judged as VBench does."""
    real = {name for name, judge in judges.items() if judge.kind in ("exact", "model")}
    out = []
    for prefix, dimensions, totals in (
        ("", DIMENSIONS, arithmetic.totals),
        ("i2v_", arithmetic.I2V_QUALITY | I2V, arithmetic.i2v_totals),
    ):
        if dimensions.keys() <= real:
            for part in ("quality", "i2v" if prefix else "semantic", "total"):
                of_rows = _total(part, dimensions, totals, dimension_score)
                out.append(Score(prefix + part, Judge("VBench's weights and norms"), of_rows))
    return out


def _total(part: str, dimensions: Iterable[str], totals: Callable, dimension_score: Callable) -> Callable:
    def score(rows: Sequence[Row]) -> float | None:
        raw = {name: dimension_score(name)(rows) for name in dimensions}
        return None if None in raw.values() else totals(raw)[part]

    return score


def notes(rows: Sequence[Row], asked: Asked) -> list[str]:
    """What every number is told with."""
    out = []
    if asked.items is not None:
        out.append(f"prompts of {asked.items.name}: say beside every number whether they are short or expanded")
    judged = [row for row in rows if row.error is None]
    flickering = [row for row in judged if "temporal_flickering" in row.item.facts.get("dimensions", ())]
    static = sum(row.values.get("temporal_flickering") is not None for row in flickering)
    if flickering and "import" not in asked.options:
        out.append(f"temporal flickering: {static} of {len(flickering)} clips are static, the others are left out")
    return out


# The original program


def export(rows: Sequence[Row], asked: Asked) -> None:
    """Write the clips as the original VBench reads them: PROMPT-0.mp4 to PROMPT-4.mp4, of flickering the static ones.

    Raises:
        InputError: the folder is not empty.
    """
    folder = Path(str(asked.options["export"]))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"export folder {shown(folder)} is not empty; VBench would read what else is in it")
    source = asked.videos or asked.output / "clips"
    taken: dict[str, int] = {}
    for row in _exported(rows):
        (name,) = row.files
        number = taken[row.item.unit] = taken.get(row.item.unit, -1) + 1
        stem = f"{row.item.prompts[0]}-{number}" if row.item.group else row.item.name
        # Nothing but mp4: VBench takes the suffix of all videos from the first file of the folder.
        _copy(source / name, folder / f"{stem}.mp4")


def _exported(rows: Sequence[Row]) -> list[Row]:
    def wanted(row: Row) -> bool:
        flickering = row.item.facts.get("dimensions") == ["temporal_flickering"]
        return row.error is None and not (flickering and row.values.get("temporal_flickering") is None)

    return first_five([row for row in rows if wanted(row)])


def _copy(path: Path, target: Path) -> None:
    if path.suffix.lower() == ".mp4":
        shutil.copyfile(path, target)
        return
    from mindsora.media import stream_video

    frames, fps = stream_video(path)
    export_to_video((frame[None] for frame in frames), target, fps)


def imported(asked: Asked) -> tuple[tuple[Measure, ...], list[Row], tuple[Score, ...]]:
    """Measures, rows and scores of a results file of the original VBench.

    A dimension has the value that the file states. Its interval comes from the file's videos.

    Raises:
        InputError: a file of another form.
    """
    path = Path(str(asked.options["import"]))
    content = read_json(path, 2**28)
    judge = Judge("original VBench", path.name, "model", file_sha256(path))
    stated, rows = {}, {}
    for name, entry in content.items():
        if name not in DIMENSIONS | I2V:
            raise InputError(f"results {shown(path)}: unknown dimension {shown(name)}")
        try:
            stated[name], videos = float(entry[0]), entry[-1]
            for video in videos:
                stem = Path(video["video_path"]).stem
                row = rows.setdefault(stem, Row(Item(stem, (stem,), group=stem.rpartition("-")[0])))
                # imaging quality: the file divides the whole by 100, not the videos
                scale = 100 if name == "imaging_quality" else 1
                row.values[name] = float(video["video_results"]) / scale
                row.item.facts.setdefault("dimensions", []).append(name)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(
                f"results {shown(path)}: {name} is not of VBench's form: {shown(repr(error), quote=False)}"
            ) from None
    wanted = DIMENSIONS if not I2V.keys() & stated.keys() else arithmetic.I2V_QUALITY | I2V
    found = tuple(
        Measure(name, judge, lambda clip: None) if name in stated else missing(name, f"{name} in {path.name}")
        for name in dict.fromkeys([*wanted, *stated])
    )
    every = list(rows.values())
    parts = {name: _stated(name, value, every) for name, value in stated.items()}
    own = [Score(name, judge, of_rows) for name, of_rows in parts.items()]
    return found, every, (*own, *_totals(dict.fromkeys(stated, judge), parts.__getitem__))


def _stated(name: str, value: float, every: Sequence[Row]) -> Callable[[Sequence[Row]], float | None]:
    """The stated value, moved by as much as the mean of drawn rows differs from the mean of all."""

    def mean(rows: Sequence[Row]) -> float | None:
        values = [row.values[name] for row in rows if row.values.get(name) is not None]
        return float(np.mean(values)) if values else None

    whole = mean(every)
    return lambda rows: None if (drawn := mean(rows)) is None or whole is None else value + drawn - whole


EVALUATION = Evaluation(
    "vbench",
    __doc__.splitlines()[0],
    None,
    measures,
    scores,
    judges=JUDGES,
    options=("export", "import"),
    model=None,
    source=clips,
    notes=notes,
    export=export,
    imported=imported,
)
