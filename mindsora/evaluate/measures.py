"""What is measured on a clip, and who judges it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mindsora.evaluate.items import Item

KINDS = ("exact", "model", "proxy", "missing")


@dataclass(frozen=True)
class Judge:
    """Who gives a value.

    Attributes:
        name, version: of the arithmetic, the package or the file.
        kind: "exact" computes the definition itself, "model" runs the network that the definition names, "proxy" stands
            in for it, "missing" is a network that nobody gave.
        sha256: of the file of a network.
    """

    name: str
    version: str = "1"
    kind: str = "exact"
    sha256: str | None = None

    def __post_init__(self):
        assert self.kind in KINDS, self.kind


@dataclass(frozen=True)
class Clip:
    """What measures see.

    Attributes:
        item: what was asked for.
        frames: (T, H, W, 3) uint8, all shots one after another.
        fps: frames per second.
        starts: number of the first frame of each shot.
        paths: the files of the shots.
        manifests: of the shots that were generated here.
        reference: (T, H, W, 3) uint8 that the frames are compared with, of an autoencoder.
    """

    item: Item
    frames: np.ndarray
    fps: float = 8.0
    starts: tuple[int, ...] = (0,)
    paths: tuple[Path, ...] = ()
    manifests: tuple[dict, ...] = ()
    reference: np.ndarray | None = None

    @property
    def shots(self) -> list[np.ndarray]:
        """The frames of each shot."""
        return np.split(self.frames, self.starts[1:])


@dataclass(frozen=True)
class Measure:
    """A value of one clip.

    Attributes:
        name: in reports.
        judge: who gives it.
        of_clip: clip -> value; None where the measure does not apply to this clip. An array goes into the row's
            features, for a score of the same name over the whole set. `of_clip` is None itself where the judge is missing.
        bounds: least and greatest value there can be.
        higher_is_better: None where neither is.
    """

    name: str
    judge: Judge
    of_clip: Callable[[Clip], float | np.ndarray | None] | None
    bounds: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool | None = True

    @property
    def missing(self) -> bool:
        return self.of_clip is None


def missing(name: str, needs: str, bounds: tuple[float, float] = (0.0, 1.0)) -> Measure:
    """A measure whose judge `needs` was not given: its place in the report says so."""
    return Measure(name, Judge(needs, "none", "missing"), None, bounds)


@dataclass
class Row:
    """The values of one item.

    Attributes:
        values: measure -> value, None where it does not apply.
        cost: seconds of generation, peak memory; from the manifests.
        error: why the clip could not be judged; its values are then empty.
        features: arrays for scores over the whole set, which the report leaves out.
        files: names of the clip's files; frames: how many it has.
    """

    item: Item
    values: dict[str, float | None] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    frames: int = 0


@dataclass(frozen=True)
class Score:
    """A value over all rows.

    Attributes:
        of_rows: rows -> value; None where no row says anything. The bootstrap calls it on drawn rows.
        judge: who gives it.
        unit: "" for a share or a ratio.
        bootstrapped: whether the report gives an interval.
    """

    name: str
    judge: Judge
    of_rows: Callable[[Sequence[Row]], float | None]
    higher_is_better: bool | None = True
    unit: str = ""
    bootstrapped: bool = True


def mean_of(measure: Measure) -> Score:
    """The mean of a measure over the clips that it applies to."""

    def mean(rows: Sequence[Row]) -> float | None:
        values = [value for row in rows if (value := row.values.get(measure.name)) is not None]
        return float(np.mean(values)) if values else None

    return Score(measure.name, measure.judge, mean, measure.higher_is_better)


Judges = Mapping[str, Path]  # name of a judge -> its file, as `--judge NAME=FILE` gives it
