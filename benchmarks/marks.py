"""Calibrate the detector of marks on synthetic overlays; write a receipt.

    python benchmarks/marks.py

Small, plain scenes: 300 procedural clips, every second one blurred, with and without a mark, in corners, in the centre and
tiled, of 35 to 80 % opacity. Photographs of scikit-image at 256 pixels with a moving disc are judged by the words that OCR
reads. The status is 1 if recall or false alarms miss their limits.
"""

import sys

import cv2
import numpy as np
import receipt
import skimage.data

from mindsora.data.toy.procedural import clip
from mindsora.evaluate.marks import PLACES, overlaid
from mindsora.evaluate.watermark import carries_mark

CLIPS, SCENES, FRAMES, SIZE = 300, 24, 17, 256
LEAST_RECALL, MOST_FALSE = 0.95, 0.02
TEXTS = ("stock", "demo", "preview", "sample")
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "retina")


def mark(number: int, video: np.ndarray) -> np.ndarray:
    """The clip with the mark of its number."""
    rng = np.random.RandomState(number)
    return overlaid(video, TEXTS[number % 4], PLACES[number % 3], rng.uniform(0.35, 0.8), rng)


def plain(number: int) -> np.ndarray:
    """A procedural clip; every second one as blurred as a small autoencoder leaves it."""
    video = clip(number)[0]
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 0.8) for frame in video]) if number % 2 else video


def photographed(number: int) -> np.ndarray:
    """A photograph, (FRAMES, SIZE, SIZE, 3), before which a disc moves."""
    rng, photo = np.random.RandomState(number), getattr(skimage.data, PHOTOS[number % len(PHOTOS)])()[..., :3]
    photo = photo[rng.randint(100) :, rng.randint(100) :]
    scale = SIZE / min(photo.shape[:2]) + 1e-6
    still = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:SIZE, :SIZE]
    colour, row = tuple(int(level) for level in rng.randint(256, size=3)), int(rng.uniform(0.2, 0.8) * SIZE)
    columns = np.linspace(0.1, 0.9, FRAMES) * SIZE
    return np.stack([cv2.circle(still.copy(), (int(x), row), SIZE // 5, colour, -1, cv2.LINE_AA) for x in columns])


def measured(videos) -> dict[str, float | int]:
    """Recall and false alarms over the clips that can be judged, and the number of those that cannot."""
    clean, marked = [], []
    for number, video in enumerate(videos):
        seen = carries_mark(video)
        clean.append(seen)
        marked.append(None if seen is None else carries_mark(mark(number, video)))
    judged = [seen for seen in clean if seen is not None]
    return {
        "clips": len(clean),
        "not_judged": clean.count(None),
        "false_alarm_percent": round(100 * float(np.mean(judged)), 2),
        "recall_percent": round(100 * float(np.mean([bool(seen) for seen in marked if seen is not None])), 2),
    }


def main() -> int:
    numbers = {
        "plain_64": measured(map(plain, range(CLIPS))),
        "photographs_256": measured(map(photographed, range(SCENES))),
    }
    receipt.write("marks", ("numpy", "opencv-python-headless", "rapidocr", "scikit-image"), numbers)
    missed = [
        name
        for name, values in numbers.items()
        if values["recall_percent"] < 100 * LEAST_RECALL or values["false_alarm_percent"] > 100 * MOST_FALSE
    ]
    print(numbers, f"limits missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
