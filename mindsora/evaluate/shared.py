"""What the practical tests share: one look at a clip for several measures, and means over them."""

import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from mindsora.data.toy.procedural import Thing, render
from mindsora.evaluate.inpainting import MOST_JUMP
from mindsora.evaluate.measure import Measured
from mindsora.evaluate.measures import Clip, Judge, Measure, Row, Score
from mindsora.jobs.reconstruct import load_vae, reconstruct
from mindsora.media import export_to_video, read_video

Judged = Callable[[Clip], dict[str, float | None]]


def judged_once(judge: Judged) -> Judged:
    """A judge that remembers the clip it saw last, because every measure of a clip asks it again."""
    last: list = [None, {}]

    def remembered(clip: Clip) -> dict[str, float | None]:
        if last[0] is not clip:
            last[:] = clip, judge(clip)
        return last[1]

    return remembered


def measure_of(
    judge: Judged,
    name: str,
    by: Judge,
    bounds: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool | None = True,
) -> Measure:
    """The value `name` of a judge; None for clips that it does not apply to."""
    return Measure(name, by, lambda clip: judge(clip).get(name), bounds, higher_is_better)


def measures_of(judge: Judged, names: Sequence[str], by: Judge) -> tuple[Measure, ...]:
    """Several values in [0, 1] of one judge, where more is better."""
    return tuple(measure_of(judge, name, by) for name in names)


def mean_over(name: str, by: Judge, measures: Sequence[str]) -> Score:
    """The mean of several measures over all rows."""

    def mean(rows: Sequence[Row]) -> float | None:
        values = [value for row in rows for measure in measures if (value := row.values.get(measure)) is not None]
        return float(np.mean(values)) if values else None

    return Score(name, by, mean)


def drawn(facts: dict, frames: int = 17, size: int = 64) -> np.ndarray:
    """The procedural clip (T, H, W, 3) uint8 of an item's `thing` on its `background`, a function of its `drawing`."""
    rng = np.random.RandomState([facts["drawing"], 21])
    return render((Thing(**facts["thing"]),), facts["background"], rng, size, frames)


@lru_cache(1)
def _autoencoder(model: str):
    return load_vae(model)


def round_trip(clip: Clip, source: np.ndarray) -> np.ndarray | None:
    """The source (T, H, W, 3) uint8 through the autoencoder of the clip's model, then through the clip's codec.

    None for a clip without a manifest: nobody knows its autoencoder.
    """
    if not clip.manifests:
        return None
    back = reconstruct(_autoencoder(clip.manifests[0]["request"]["model"]), source)
    with tempfile.TemporaryDirectory() as folder:
        return read_video(export_to_video(back, Path(folder) / "back.mp4", clip.fps))[0]


def obeys(seen: Measured, thing: dict) -> dict[str, float]:
    """Whether shape, colour and motion are those of a `thing`; an object that jumps or fades over has no motion."""
    motion = seen.motion if seen.motion and seen.track["jump"] <= MOST_JUMP else None
    shown = {"shape": seen.shape, "colour": seen.colour, "motion": motion}
    return {name: float(value == thing[name]) for name, value in shown.items()}
