"""How far a long video has drifted from its beginning, window by window, while it is being written.

A video made by continuation, window after window, can lose colour, contrast or sharpness so slowly that no single
window shows it, and can jump where windows meet. Every window is compared with the first:

colour      distance of the mean colours in CIELAB (CIE 1976); 2 is just visible side by side, 10 is another colour
saturation  mean chroma in CIELAB, as a ratio to the first window's
contrast    standard deviation of luma within a frame, likewise
sharpness   standard deviation of luma's Laplacian, as a ratio to the contrast so that fading does not count as blur;
            likewise. Below 1 is blur, above 1 is noise or ringing.

Frame differences are mean absolute differences of neighbouring frames, in 8-bit levels. At a border they are set
against the median inside the windows: a ratio well above 1 is a visible jump.

These measure change, not fault: a scene that goes from day to night has drifted too.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from mindsora.errors import InputError
from mindsora.media import to_uint8

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of ITU-R BT.709, gamma-coded
_SRGB = np.arange(256) / 255
# Linear light of every 8-bit value (IEC 61966-2-1). OpenCV's own table of it is coarse: 0.3 off in L.
_LINEAR = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4).astype(np.float32)
MIN_CHROMA, MIN_CONTRAST = 1.0, 1.0  # of a first window that ratios can be taken to; below it is gray, or flat


class Drift:
    """Takes the frames of a long video as they come; what it keeps is one frame and a few numbers a window.

    drift = Drift()
    for window in windows:
        for chunk in window:
            drift.add(chunk)
        drift.end_window()
    report = drift.report()
    """

    def __init__(self):
        self._windows: list[dict] = []
        self._last = None  # (H, W, 3) uint8, the frame before
        self._begin()

    def _begin(self):
        self._frames, self._border = 0, None
        self._sums = np.zeros(6)  # L, a, b, chroma, contrast, sharpness
        self._inside: list[float] = []  # of this window alone

    def add(self, frames: np.ndarray) -> None:
        """The next frames (n, H, W, 3) of the window, uint8 or float in [0, 1].

        Raises:
            InputError: another shape or dtype, or frames of another size than those before.
        """
        frames = to_uint8(frames)
        size = self._last.shape if self._last is not None else frames.shape[1:]
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0 or frames.shape[1:] != size:
            wanted = f"(frames, {size[0]}, {size[1]}, 3)" if self._last is not None else "(frames, height, width, 3)"
            raise InputError(f"drift is measured on frames {wanted}, not {frames.shape}")
        for frame in frames:
            if self._last is not None:
                difference = float(np.abs(frame.astype(np.int16) - self._last).mean())
                if self._frames:
                    self._inside.append(difference)
                else:
                    self._border = difference
            self._sums += _measures(frame)
            self._frames += 1
            self._last = frame.copy()  # not a view, which would keep the whole chunk

    def end_window(self) -> None:
        """The next frames belong to another window."""
        if not self._frames:
            raise InputError("a window without frames: add frames before end_window")
        self._windows.append(
            {
                "frames": self._frames,
                "means": self._sums / self._frames,
                "inside": float(np.median(self._inside)) if self._inside else None,
                "border": self._border,
            }
        )
        self._begin()

    def report(self) -> dict:
        """Numbers for JSON; None where there is nothing to divide by (a flat or gray first window, a still).

        Returns:
            windows: for each `frames`, `colour`, `saturation`, `contrast`, `sharpness`, `inside_difference` (median),
                `border_difference` (to the window before; None in the first) and `border_ratio`.
            inside_difference: the median of the windows'.
            worst: the largest `colour` and `border_ratio`, and the `saturation`, `contrast` and `sharpness` farthest
                from 1.

        Raises:
            InputError: no window has ended, or one has begun and not ended.
        """
        if not self._windows or self._frames:
            raise InputError("a drift report needs at least one window, and every window ended with end_window")
        first = self._windows[0]["means"]
        insides = [window["inside"] for window in self._windows if window["inside"] is not None]
        inside = float(np.median(insides)) if insides else None
        windows = []
        for window in self._windows:
            means, border = window["means"], window["border"]
            windows.append(
                {
                    "frames": window["frames"],
                    "colour": float(np.linalg.norm(means[:3] - first[:3])),
                    "saturation": _ratio(means[3], first[3], MIN_CHROMA),
                    "contrast": _ratio(means[4], first[4], MIN_CONTRAST),
                    "sharpness": _ratio(means[5], first[5], 0 if first[4] > MIN_CONTRAST else np.inf),
                    "inside_difference": window["inside"],
                    "border_difference": border,
                    "border_ratio": None if border is None or inside is None else _ratio(border, inside),
                }
            )
        return {"windows": windows, "inside_difference": inside, "worst": _worst(windows)}


def measure_drift(windows: Iterable[np.ndarray]) -> dict:
    """`Drift.report` of windows (n, H, W, 3), taken one at a time."""
    drift = Drift()
    for window in windows:
        drift.add(window)
        drift.end_window()
    return drift.report()


def _measures(frame: np.ndarray) -> np.ndarray:
    """Mean L, a, b and chroma, contrast, sharpness of one frame (H, W, 3) uint8."""
    lab = cv2.cvtColor(_LINEAR[frame], cv2.COLOR_LRGB2Lab).astype(np.float64)  # (H, W, 3); means of many pixels
    luma = frame.astype(np.float32) @ LUMA  # (H, W)
    contrast = luma.std(dtype=np.float64)
    edges = cv2.Laplacian(luma, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT).std(dtype=np.float64)
    return np.array(
        [
            *lab.mean((0, 1)),
            np.hypot(lab[..., 1], lab[..., 2]).mean(),
            contrast,
            edges / contrast if contrast > 0 else 0,
        ]
    )


def _ratio(value: float, reference: float, smallest: float = 0) -> float | None:
    return float(value / reference) if reference > smallest else None


def _worst(windows: list[dict]) -> dict:
    def values(name):
        return [window[name] for window in windows if window[name] is not None]

    worst = {name: max(values(name), default=None) for name in ("colour", "border_ratio")}
    ratios = ("saturation", "contrast", "sharpness")
    return worst | {name: max(values(name), key=lambda ratio: abs(ratio - 1), default=None) for name in ratios}
