"""The arithmetic of VBench (arXiv 2311.17982): frames that are looked at, scores of the 16 dimensions, totals.

Every function here takes what a network said and returns the score; no function runs one. Frames are (T, H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mindsora.errors import InputError


@dataclass(frozen=True)
class Dimension:
    """One dimension: its raw score is normalised with `low` and `high` before it enters a total, and may leave 0..1.

    Attributes:
        pooled: the mean over clips is weighted by their frames, as a single device has it.
    """

    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    pooled: bool = False

    def normalised(self, raw: float) -> float:
        return (raw - self.low) / (self.high - self.low)


QUALITY = {
    "subject_consistency": Dimension(0.1462, pooled=True),
    "background_consistency": Dimension(0.2615, pooled=True),
    "temporal_flickering": Dimension(0.6293),
    "motion_smoothness": Dimension(0.7060, 0.9975),
    "dynamic_degree": Dimension(weight=0.5),
    "aesthetic_quality": Dimension(),
    "imaging_quality": Dimension(),
}
SEMANTIC = {
    "object_class": Dimension(),
    "multiple_objects": Dimension(),
    "human_action": Dimension(),
    "color": Dimension(),
    "spatial_relationship": Dimension(),
    "scene": Dimension(high=0.8222),
    "appearance_style": Dimension(0.0009, 0.2855, pooled=True),
    "temporal_style": Dimension(high=0.3640),
    "overall_consistency": Dimension(high=0.3640),
}
DIMENSIONS = QUALITY | SEMANTIC

# VBench-I2V: its quality has no temporal flickering
I2V = {
    "camera_motion": Dimension(weight=0.1),
    "i2v_subject": QUALITY["subject_consistency"],
    "i2v_background": QUALITY["background_consistency"],
}
I2V_QUALITY = {name: dimension for name, dimension in QUALITY.items() if name != "temporal_flickering"}


def _weighted(raw: Mapping[str, float], dimensions: Mapping[str, Dimension]) -> float:
    missing = [name for name in dimensions if raw.get(name) is None]
    if missing:
        raise InputError(f"no total without {', '.join(missing)}: a missing dimension would count as 0")
    total = sum(dimension.weight * dimension.normalised(raw[name]) for name, dimension in dimensions.items())
    return total / sum(dimension.weight for dimension in dimensions.values())


def totals(raw: Mapping[str, float]) -> dict[str, float]:
    """Quality, semantic and total score of VBench from raw scores as fractions.

    Raises:
        InputError: a dimension is missing.
    """
    quality, semantic = _weighted(raw, QUALITY), _weighted(raw, SEMANTIC)
    return {"quality": quality, "semantic": semantic, "total": (4 * quality + semantic) / 5}


def i2v_totals(raw: Mapping[str, float]) -> dict[str, float]:
    """Quality, image-to-video and total score of VBench-I2V. InputError: a dimension is missing."""
    quality, i2v = _weighted(raw, I2V_QUALITY), _weighted(raw, I2V)
    return {"quality": quality, "i2v": i2v, "total": (quality + i2v) / 2}


# Frames


def middle_frames(frames: int, count: int) -> list[int]:
    """Numbers of the middle frames of `count` intervals; the last is repeated where a clip has fewer frames."""
    bounds = np.linspace(0, frames, min(count, frames) + 1).astype(int)
    numbers = [int(start + end - 1) // 2 for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return numbers + [numbers[-1]] * (count - len(numbers))


def eight_a_second(frames: int, fps: float) -> list[int]:
    """Numbers of the frames that dynamic degree looks at: about eight a second."""
    return list(range(0, frames, max(1, round(fps / 8))))


# Quality


def flickering(frames: np.ndarray) -> float | None:
    """1 less the mean absolute difference of neighbouring frames, of 255; of static clips alone. None for one frame."""
    if len(frames) < 2:
        return None
    differences = [np.abs(b.astype(np.int16) - a).mean() for a, b in zip(frames[:-1], frames[1:], strict=True)]
    return float((255 - np.mean(differences)) / 255)


def smoothness(frames: np.ndarray, interpolate) -> float | None:
    """Every second frame is dropped and made again from its neighbours: 1 less the mean difference, of 255.

    Args:
        interpolate: two frames (H, W, 3) uint8 -> the frame between them, uint8.

    Returns:
        None for fewer than three frames.
    """
    if len(frames) < 3:
        return None
    kept, dropped = frames[::2], frames[1::2]
    # A dropped frame at the very end has no neighbour behind it.
    pairs = zip(kept[:-1], kept[1:], dropped[: len(kept) - 1], strict=True)
    errors = [np.abs(interpolate(a, b).astype(np.int16) - wanted).mean() for a, b, wanted in pairs]
    return float((255 - np.mean(errors)) / 255)


def consistency(features: np.ndarray) -> float | None:
    """Mean over frames i >= 1 of the cosines to the frame before and to the first, negative ones 0. None for one frame.

    features: (T, D).
    """
    if len(features) < 2:
        return None
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    before = (unit[1:] * unit[:-1]).sum(1).clip(0)
    return float(((before + (unit[1:] @ unit[0]).clip(0)) / 2).mean())


def largest_motion(flow: np.ndarray, share: float) -> float:
    """Mean of the largest `share` of the lengths of a flow (H, W, 2), in pixels."""
    lengths = np.sort(np.sqrt((flow.astype(np.float64) ** 2).sum(-1)).ravel())[::-1]
    return float(lengths[: int(len(lengths) * share)].mean())


def is_dynamic(motions: Sequence[float], frames: int, short_side: int) -> bool:
    """Whether enough of the neighbouring frames move.

    Args:
        motions: `largest_motion` of each pair, share 0.05.
        frames: that were looked at.
        short_side: of a frame, in pixels.
    """
    least, count = 6.0 * short_side / 256, round(4 * frames / 16)
    # The count is compared after each pair: a clip of one frame has no pair, and is not dynamic even with a count of 0.
    return bool(motions) and sum(motion > least for motion in motions) >= count


def is_static(motions: Sequence[float], ends: Sequence[float], frames: int, short_side: int) -> bool:
    """Whether the filter of temporal flickering keeps a clip.

    Args:
        motions: `largest_motion` of each pair of neighbouring frames, share 0.02.
        ends: the same from the first frame to the last, and back.
        frames, short_side: as in `is_dynamic`.
    """
    least, count = 3.0 * short_side / 256, round(2 * frames / 16)
    return sum(motion > least for motion in motions) <= count and all(motion <= least * count * 2 for motion in ends)


# Semantics. A detection is (label, caption, (x0, y0, x1, y1)) of one frame.

COLOURS = (
    "white", "red", "pink", "blue", "silver", "purple", "orange", "green", "gray", "yellow", "black", "grey",
)  # fmt: skip
HORIZONTAL, VERTICAL = ("on the left of", "on the right of"), ("on the top of", "on the bottom of")
LEAST_CONFIDENCE, TOP = 0.85, 5  # of human action
OVERLAP = 0.1  # intersection over union above which a spatial relationship scores less


def share_with(labels: Sequence[set[str]], wanted: Sequence[str]) -> float:
    """Share of frames in which every wanted class is among the labels."""
    return float(np.mean([set(wanted) <= each for each in labels]))


def right_colour(captions: Sequence[Sequence[tuple[str, str]]], thing: str, colour: str) -> float | None:
    """Frames with the right colour, by frames in which the object has any colour; None where it never has one.

    captions: of each frame (label, caption) pairs.
    """
    of_thing = [[caption for label, caption in frame if label == thing] for frame in captions]
    coloured = sum(any(word in caption for caption in frame for word in COLOURS) for frame in of_thing)
    right = sum(any(colour in caption for caption in frame) for frame in of_thing)
    return right / coloured if coloured else None


def position(relation: str, a: Sequence[float], b: Sequence[float]) -> float:
    """Score of two boxes: their centres must be further apart on the asked axis; overlap takes off.

    Left and right, top and bottom, are not told apart.
    """
    if relation not in HORIZONTAL + VERTICAL:
        raise InputError(f"relationship {relation!r}: must be one of {', '.join(HORIZONTAL + VERTICAL)}")
    x, y = (abs(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1))
    if (x <= y) if relation in HORIZONTAL else (y <= x):
        return 0.0
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    both = width * height
    iou = both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - both)
    return 1.0 if iou < OVERLAP else OVERLAP / iou


def spatial(frames: Sequence[Sequence[tuple[str, Sequence[float]]]], first: str, second: str, relation: str) -> float:
    """Mean over frames of the best pair among the boxes of both classes.

    frames: of each frame (label, box) pairs.
    """
    scores = []
    for frame in frames:
        boxes = [box for label, box in frame if label in (first, second)]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
        scores.append(max((position(relation, a, b) for a, b in pairs), default=0.0))
    return float(np.mean(scores))


def right_action(confidences: Mapping[str, float], action: str) -> float:
    """1 where the action is among the TOP labels and its sigmoid is LEAST_CONFIDENCE or more, else 0."""
    best = sorted(confidences, key=lambda label: -confidences[label])[:TOP]
    return float(action in best and round(confidences[action], 4) >= LEAST_CONFIDENCE)


def scene(captions: Sequence[str], words: str) -> float:
    """Share of frames whose caption holds every word of the scene, as part of any word."""
    return float(np.mean([all(word in caption for word in words.split()) for caption in captions]))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of a clip's and a text's features: temporal style and overall consistency."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# Long videos

CLIP_SECONDS, LONG_CLIP_SECONDS = 2, 10
LONG_CLIPS = ("human_action", "temporal_style", "overall_consistency")


def pieces(frames: int, fps: float, dimension: str) -> list[tuple[int, int]]:
    """(start, end) of the pieces of one scene that a dimension judges; the last one begins earlier to be as long."""
    length = int(fps * (LONG_CLIP_SECONDS if dimension in LONG_CLIPS else CLIP_SECONDS))
    if frames <= length:
        return [(0, frames)]
    starts = list(range(0, frames - length + 1, length))
    if starts[-1] + length < frames:
        starts.append(frames - length)
    return [(start, start + length) for start in starts]


def mapped(between: Sequence[float], inside: Sequence[float]) -> np.ndarray:
    """Scores between pieces on the scale of scores inside pieces: equal ranks get equal quantiles."""
    between, inside = np.asarray(between, float), np.sort(np.asarray(inside, float))
    ranks = np.argsort(np.argsort(between, kind="stable"), kind="stable") + 1
    return np.interp(ranks / (len(between) + 1), np.linspace(0, 1, len(inside), endpoint=False), inside)


def long_consistency(inside: Sequence[float], between: Sequence[float]) -> float:
    """Half of the consistency inside pieces, half of that between them (of their first frames), after `mapped`."""
    return float(0.5 * np.mean(inside) + 0.5 * mapped(between, inside).mean())
