"""One shape for every evaluation: items, clips, measures, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mindsora.evaluate.clips import Unreadable
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Clip, Judges, Measure, Row, Score
from mindsora.pipelines.lora_file import LoRAFile
from mindsora.runtime import Runtime

Given = Callable[[Item, int, np.ndarray | None, tuple[int, int, int]], list[tuple[np.ndarray, int]]]


@dataclass(frozen=True)
class Asked:
    """What a run is asked for.

    Attributes:
        output: folder of clips, report and page.
        model: name or folder, whose clips are generated; or
        videos: a folder of clips made by anybody.
        items: another file of items than the evaluation's own.
        judges: name -> file of a network.
        settings: num_inference_steps, guidance_scale, where they are not the model's own.
        options: of this evaluation alone.
        policy: device and graph mode; the caller has applied it.
    """

    output: Path
    model: str | None = None
    videos: Path | None = None
    items: Path | None = None
    judges: Judges = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    loras: tuple[LoRAFile, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    policy: Runtime = field(default_factory=Runtime)
    command: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """One way to measure a model.

    Attributes:
        name: on the command line.
        about: what it measures, in one line.
        items: the committed file of items; None where `source` brings them.
        measures: files of judges -> measures. A measure whose judge is not given is `measures.missing`.
        scores: measures -> scores over all rows, beside the mean of every measure.
        judges: names of the judge files that it takes.
        options: names of its own options.
        thresholds: score -> the value that it must reach (at most, where lower is better).
        model: the default model; None: a run names it.
        of_any_video: with a folder of videos, every file is an item; otherwise files are found by the items' names.
        given: (item, shot, frames of the shot before or None, size) -> pictures (H, W, 3) uint8 and the numbers of the
            frames that show them; None: text alone.
        notes: (rows, asked) -> lines that the report gives beside its numbers.
        source: asked -> clips, of an evaluation with items of its own; None where other ranks still owe some.
        export: (rows, asked) writes the clips for another program, for the option `export`.
        imported: asked -> measures, rows and scores of another program, for the option `import`.
    """

    name: str
    about: str
    items: Path | None
    measures: Callable[[Judges], tuple[Measure, ...]]
    scores: Callable[[tuple[Measure, ...]], tuple[Score, ...]] = lambda measures: ()
    judges: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    model: str | None = "nano"
    of_any_video: bool = False
    given: Given | None = None
    source: Callable[[Asked], Iterable[Clip | Unreadable] | None] | None = None
    notes: Callable[[Sequence[Row], Asked], list[str]] = lambda rows, asked: []
    export: Callable[[Sequence[Row], Asked], None] | None = None
    imported: Callable[[Asked], tuple[tuple[Measure, ...], list[Row], tuple[Score, ...]]] | None = None
