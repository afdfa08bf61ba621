"""LPIPS with the features of AlexNet: the form that evaluations of autoencoders report (arXiv 1801.03924, version 0.1).

It runs in NumPy on the host, whatever the device. `mindsora.media.lpips` is the form with VGG16, for training losses. The
AlexNet backbone comes as torchvision's file; no Python package ships it.
"""

import os
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mindsora.ckpt_convert import open_checkpoint
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256

BACKBONE = "alexnet-owt-7be5be79.pth"
BACKBONE_SHA256 = "7be5be79"  # torchvision puts the first eight digits into the name
HEADS = Path(__file__).parent.parent / "weights" / "lpips" / "alex_heads.safetensors"

PLACES = (0, 3, 6, 8, 10)  # of the convolutions among torchvision's `alexnet().features`
SHAPES = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
STRIDES, PADDINGS, POOLED_BEFORE = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (False, True, True, False, False)
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
LEAST = 32  # pixels of a side: below it the second pooling has nothing left


class AlexLPIPS:
    """The distance of two clips, frame by frame.

    Args:
        convolutions: (weight, bias) of each.
        heads: weights of each layer's channels.
    """

    def __init__(self, convolutions: list[tuple[np.ndarray, np.ndarray]], heads: list[np.ndarray]):
        self.convolutions, self.heads = convolutions, heads

    def distances(self, a: np.ndarray, b: np.ndarray) -> list[float]:
        """Of two clips (T, H, W, 3), uint8 or float in [0, 1]: a value for each pair of frames, 0 for equal ones.

        Raises:
            InputError: two shapes, or frames below LEAST pixels.
        """
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.ndim != 4 or a.shape[3] != 3:
            raise InputError(
                f"two clips (frames, height, width, 3) of one shape are compared, not {a.shape}, {b.shape}"
            )
        if min(a.shape[1:3]) < LEAST:
            raise InputError(
                f"LPIPS needs frames of at least {LEAST} x {LEAST} pixels, not {a.shape[1]} x {a.shape[2]}"
            )
        # Frame by frame, so that memory does not grow with the clip.
        return [self._distance(x, y) for x, y in zip(a, b, strict=True)]

    def _distance(self, x: np.ndarray, y: np.ndarray) -> float:
        layers = zip(self._features(_planes(x)), self._features(_planes(y)), self.heads, strict=True)
        return float(sum((np.square(u - v) * head[:, None, None]).sum(0).mean() for u, v, head in layers))

    def _features(self, x: np.ndarray) -> list[np.ndarray]:
        """Of every layer (C, h, w), divided by their norm over channels."""
        out = []
        for (weight, bias), stride, padding, pooled in zip(
            self.convolutions, STRIDES, PADDINGS, POOLED_BEFORE, strict=True
        ):
            x = _windows(x, 3, 2).max((3, 4)) if pooled else x
            x = np.maximum(_convolved(x, weight, stride, padding) + bias[:, None, None], 0)
            out.append(x / (np.sqrt(np.square(x).sum(0)) + 1e-10))
        return out


def _windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """(C, H, W) -> (C, h, w, kernel, kernel)."""
    return sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def _convolved(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """(Ci, H, W) by (Co, Ci, k, k) -> (Co, h, w), zeros around."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    return np.tensordot(weight, _windows(x, weight.shape[2], stride), ((1, 2, 3), (0, 3, 4)))


def _planes(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) as (3, H, W), from [-1, 1] to AlexNet's scale."""
    pixels = frame / np.float32(127.5) if frame.dtype == np.uint8 else frame.astype(np.float32) * 2
    return (((pixels - 1) - np.float32(_MEAN)) / np.float32(_STD)).transpose(2, 0, 1)


def load_alex(backbone: str | os.PathLike, sha256: str = BACKBONE_SHA256) -> AlexLPIPS:
    """LPIPS with the weights of an AlexNet file.

    Args:
        backbone: torchvision's file BACKBONE, or one with the same names of tensors.
        sha256: its checksum, or the first digits of it.

    Raises:
        InputError: no such file, another checksum, or no AlexNet in it.
    """
    path = Path(backbone)
    if not path.is_file():
        raise InputError(f"LPIPS backbone {shown(path)} does not exist; download torchvision's {BACKBONE}")
    if not (actual := file_sha256(path)).startswith(sha256):
        raise InputError(
            f"LPIPS backbone {shown(path)} has the sha256 {actual[:12]}..., not {sha256[:12]}... of {BACKBONE}; "
            "download it again"
        )
    with open_checkpoint(path) as alexnet, open_checkpoint(HEADS) as heads:
        try:
            layers = [[alexnet[f"features.{place}.{part}"].numpy() for part in ("weight", "bias")] for place in PLACES]
        except KeyError as error:
            raise InputError(f"LPIPS backbone {shown(path)} has no tensor {error}; give {BACKBONE}") from error
        for (weight, _), shape in zip(layers, SHAPES, strict=True):
            if weight.shape != shape:
                raise InputError(
                    f"LPIPS backbone {shown(path)}: a convolution has the shape {weight.shape}, not {shape}"
                )
        pairs = [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]
        return AlexLPIPS(pairs, [heads[f"lin{number}"].numpy() for number in range(len(PLACES))])
