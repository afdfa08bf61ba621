"""The drift report, tested on windows of known drift."""

import json
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from mindsora.errors import InputError
from mindsora.pipelines.drift import Drift, _measures, measure_drift

GRAY = 128


def scene(frames=8, start=0, size=48):
    """A coloured texture that moves one pixel a frame, window after window: no drift, even differences."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(size, size, 3)), (2, 2, 0), mode="wrap")
    texture = (GRAY + 30 * texture / texture.std()).clip(40, 215)
    texture[..., 0] += 25
    return np.stack([np.roll(texture, t, axis=1) for t in range(start, start + frames)]) / 255


def windows(change, count=3, frames=8):
    """`count` windows; window k is changed by change(clip, k)."""
    return [change(scene(frames, k * frames), k) for k in range(count)]


def test_no_drift():
    report = measure_drift(windows(lambda clip, k: clip))
    first = report["windows"][0]
    assert first["border_difference"] is None and first["border_ratio"] is None
    for window in report["windows"]:
        assert window["frames"] == 8
        # a texture that wraps round keeps every pixel: only the Laplacian at the seam and float rounding differ
        assert window["colour"] == pytest.approx(0, abs=1e-6)
        assert [window[k] for k in ("saturation", "contrast")] == pytest.approx([1, 1], abs=1e-6)
        assert window["sharpness"] == pytest.approx(1, abs=0.02)
    for window in report["windows"][1:]:
        assert window["border_ratio"] == pytest.approx(1, abs=1e-6)  # the border is a step like any other
    json.dumps(report, allow_nan=False)


def test_fading():
    """Contrast falls to 0.9 and 0.8; sharpness, which is relative to it, stays."""
    report = measure_drift(windows(lambda clip, k: 0.5 + (clip - 0.5) * (1 - 0.1 * k)))
    contrast = [window["contrast"] for window in report["windows"]]
    assert contrast == pytest.approx([1, 0.9, 0.8], abs=0.01)  # frames are rounded to 8 bits
    assert report["worst"]["contrast"] == contrast[2]
    assert report["worst"]["sharpness"] == pytest.approx(1, abs=0.02)
    assert report["worst"]["saturation"] < 0.9


def test_blur_and_noise():
    def blurred(clip, k):
        return ndimage.gaussian_filter(clip, (0, k, k, 0), mode="wrap") if k else clip

    report = measure_drift(windows(blurred))
    sharpness = [window["sharpness"] for window in report["windows"]]
    assert sharpness[0] == 1 and sharpness[2] < sharpness[1] < 0.9
    assert report["worst"]["colour"] < 1  # blur keeps RGB means; CIELAB's shift by its curve; 2 is visible

    rng = np.random.default_rng(1)
    report = measure_drift(windows(lambda clip, k: clip + 0.04 * k * rng.normal(size=clip.shape)))
    assert report["worst"]["sharpness"] > 1.5


def test_colour():
    """A neutral gray brightens: CIELAB's lightness is 0 for black and 100 for white."""
    report = measure_drift([np.zeros((2, 16, 16, 3)), np.ones((2, 16, 16, 3))])
    assert report["windows"][1]["colour"] == pytest.approx(100, abs=0.1)
    assert report["windows"][1]["border_difference"] == 255
    # flat, gray and still: nothing to divide by
    assert report["windows"][1] | {"colour": 0, "frames": 0, "border_difference": 0} == {
        "frames": 0,
        "colour": 0,
        "saturation": None,
        "contrast": None,
        "sharpness": None,
        "inside_difference": 0,
        "border_difference": 0,
        "border_ratio": None,
    }
    json.dumps(report, allow_nan=False)

    def saturated(clip, k):
        gray = clip.mean(-1, keepdims=True)
        return (gray + (clip - gray) * (1 + 0.3 * k)).clip(0, 1)

    report = measure_drift(windows(saturated))
    assert [window["saturation"] for window in report["windows"]] == pytest.approx([1, 1.3, 1.6], abs=0.06)
    assert report["worst"]["saturation"] > 1.5


def test_colours_are_cielab():
    """Two primaries of sRGB under D65, as published tables have them; OpenCV's white point has four digits: 0.02."""
    for colour, lab in (((255, 0, 0), (53.24, 80.09, 67.20)), ((0, 0, 255), (32.30, 79.19, -107.86))):
        frame = np.full((4, 4, 3), colour, np.uint8)
        np.testing.assert_allclose(_measures(frame)[:3], lab, rtol=0, atol=0.02)


def test_jump_at_a_border():
    """The second window begins 25 levels darker: its border stands out, and no frame inside does."""
    steady = measure_drift(windows(lambda clip, k: clip))
    report = measure_drift(windows(lambda clip, k: clip - 25 / 255 * (k >= 1)))
    assert report["inside_difference"] == pytest.approx(steady["inside_difference"], rel=0.01)
    assert report["windows"][1]["border_ratio"] > 1.5
    assert report["windows"][2]["border_ratio"] == pytest.approx(1, abs=0.02)
    assert report["worst"]["border_ratio"] == report["windows"][1]["border_ratio"]


def test_frame_differences_by_hand():
    levels = [10, 12, 16, 26, 27]  # two windows: 10 12 16 | 26 27
    frames = np.stack([np.full((12, 12, 3), level, np.uint8) for level in levels])
    report = measure_drift([frames[:3], frames[3:]])
    assert [window["inside_difference"] for window in report["windows"]] == [3, 1]
    assert report["inside_difference"] == 2
    assert report["windows"][1]["border_difference"] == 10 and report["windows"][1]["border_ratio"] == 5


def test_chunks_do_not_matter():
    whole = measure_drift(windows(lambda clip, k: clip))
    drift = Drift()
    for window in windows(lambda clip, k: clip):
        for chunk in np.split(window, [1, 4]):
            drift.add(chunk)
        drift.end_window()
    assert drift.report() == whole


def test_memory_does_not_grow_with_length():
    drift, clip = Drift(), scene(8)
    drift.add(clip)
    drift.end_window()
    tracemalloc.start()
    for _ in range(20):
        drift.add(clip)
        drift.end_window()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < clip.size  # bytes of a window's frames: twenty windows leave less than one behind


def test_bad_use():
    drift = Drift()
    with pytest.raises(InputError, match="at least one window"):
        drift.report()
    with pytest.raises(InputError, match="without frames"):
        drift.end_window()
    for frames in (np.zeros((4, 4, 3)), np.zeros((1, 4, 4, 1)), np.zeros((0, 4, 4, 3))):
        with pytest.raises(InputError, match="frames, height, width, 3"):
            drift.add(frames)
    drift.add(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="ended with end_window"):
        drift.report()
    with pytest.raises(InputError, match=r"\(frames, 16, 16, 3\), not \(1, 16, 8, 3\)"):
        drift.add(np.zeros((1, 16, 8, 3), np.uint8))
