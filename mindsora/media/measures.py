"""How close two clips are: PSNR and SSIM."""

import cv2
import numpy as np

from mindsora.errors import InputError


def _frame_pairs(a, b):
    """Pairs of frames in float64, [0, 1]; one by one, because whole clips in float64 are large."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or a.size == 0:
        raise InputError(f"two clips (frames, height, width, 3) of one shape are compared, not {a.shape} and {b.shape}")
    return ([x / 255.0 if x.dtype == np.uint8 else x.astype(np.float64) for x in pair] for pair in zip(a, b))


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio of two clips in dB: per frame over RGB in [0, 1], then the mean over the frames.

    Equal frames score 100 dB (mean squared error below 1e-10), the convention of the WF-VAE evaluation.
    """
    errors = [((x - y) ** 2).mean() for x, y in _frame_pairs(a, b)]
    return float(np.mean([100.0 if error < 1e-10 else -10 * np.log10(error) for error in errors]))


def ssim(a, b) -> float:
    """Structural similarity of two clips in [-1, 1] (Wang et al. 2004), mean over frames and RGB.

    11 x 11 Gaussian window of sigma 1.5, valid region only, constants 0.01 and 0.03; height and width at least 11.
    """
    pairs = _frame_pairs(a, b)
    height, width = np.shape(a)[1:3]
    if min(height, width) < 11:
        raise InputError(f"SSIM's window is 11 x 11 pixels; the clips are {height} x {width}")
    return float(np.mean([_similarity(x, y) for x, y in pairs]))


def _similarity(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two frames (H, W, 3), float64 in [0, 1]."""
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return float((luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean())


def _windowed(frame: np.ndarray) -> np.ndarray:
    """Means of all 11 x 11 windows inside a frame (H, W, 3), Gaussian weights of sigma 1.5: (H - 10, W - 10, 3)."""
    return cv2.GaussianBlur(frame, (11, 11), 1.5)[5:-5, 5:-5]
