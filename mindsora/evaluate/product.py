"""Product fidelity: does the object of a given picture keep its colour and outline, and gain nothing?

    mindsora evaluate product --model nano_i2v --output outputs/product
    mindsora evaluate product --videos outputs/image_control/clips --output outputs/product

The picture stands for a product photo; items and clips are those of `image_control`. Compared with it are the frames at
half time and at the end. The scores:

delta E      median CIELAB distance of the object's pixels from the object's colour in the picture
colour ok    share of clips whose distance is at most 6
outline      overlap (intersection over union) of silhouettes, each moved and scaled to one centre and area. Not of objects
             that rotate: they show another view
outline ok   share of clips whose overlap is at least 0.8
nothing else share of clips that show one object and no mark

nano's objects carry no label, so the distance of its letters is not measured.
"""

import cv2
import numpy as np

from mindsora.evaluate import image_control
from mindsora.evaluate.evaluation import Evaluation
from mindsora.evaluate.measures import Clip, Judge, Measure
from mindsora.evaluate.objects import objects
from mindsora.evaluate.shared import drawn, judged_once, measure_of, measures_of
from mindsora.evaluate.watermark import carries_mark

MOST_DELTA, LEAST_OVERLAP = 6.0, 0.8
SIDE, AREA = 64, 900  # of the picture in which silhouettes are compared, pixels
JUDGE = Judge("procedural objects")


@judged_once
def judged(clip: Clip) -> dict[str, float | None]:
    """The measures of a clip."""
    video, facts = clip.frames, clip.item.facts
    source, seen = drawn(facts, *video.shape[:2]), objects(video)
    photo = next(one for one in objects(source) if one.colour == facts["thing"]["colour"])
    alone = float(len(seen) == 1 and not carries_mark(video))
    at = (len(video) // 2, len(video) - 1)
    mine = next((one for one in seen if one.colour == photo.colour), None)
    if mine is None or not all(mine.masks[n].any() for n in at):
        return {"colour ok": 0.0, "outline ok": 0.0, "nothing else": alone}
    delta = max(delta_e(source[0], photo.masks[0], video[n], mine.masks[n]) for n in at)
    values = {"delta E": delta, "colour ok": float(delta <= MOST_DELTA), "nothing else": alone}
    if facts["thing"]["motion"] != "rotating":
        overlap = min(overlap_of(photo.masks[0], mine.masks[n]) for n in at)
        values |= {"outline": overlap, "outline ok": float(overlap >= LEAST_OVERLAP)}
    return values


def delta_e(first: np.ndarray, first_mask: np.ndarray, second: np.ndarray, second_mask: np.ndarray) -> float:
    """Median CIELAB distance (CIE 1976) of the second object's pixels from the first object's median colour.

    Frames (H, W, 3) uint8, masks (H, W) bool. The soft rim, two pixels of a frame of 64, belongs to neither.
    """
    colours = [_lab(frame)[_inside(mask)] for frame, mask in ((first, first_mask), (second, second_mask))]
    return float(np.median(np.linalg.norm(colours[1] - np.median(colours[0], axis=0), axis=1)))


def _lab(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _inside(mask: np.ndarray) -> np.ndarray:
    side = 2 * round(2 * min(mask.shape) / 64) + 1
    inner = cv2.erode(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    return inner if inner.any() else mask


def overlap_of(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two silhouettes (H, W) bool, each at the same centre and area."""
    a, b = _normalised(first), _normalised(second)
    return float((a & b).sum() / (a | b).sum())


def _normalised(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    scale = np.sqrt(AREA / len(rows))
    shift = SIDE / 2 - 0.5 - scale * np.array([columns.mean(), rows.mean()])
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(mask.astype(np.float32), matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR) > 0.5


def measures(judges) -> tuple[Measure, ...]:
    """All measures of this test."""
    return (
        measure_of(judged, "delta E", JUDGE, (0.0, 400.0), higher_is_better=False),
        measure_of(judged, "colour ok", JUDGE),
        *measures_of(judged, ("outline", "outline ok", "nothing else"), JUDGE),
    )


EVALUATION = Evaluation(
    "product",
    __doc__.splitlines()[0],
    image_control.ITEMS,
    measures,
    thresholds={"colour ok": 0.9, "outline ok": 0.9, "nothing else": 0.95},
    model="nano_i2v",
    given=image_control.given,
)
