"""LPIPS with the features of AlexNet: the form that evaluations of autoencoders report (arXiv 1801.03924, version 0.1).

`mindsora.media.lpips` is the form with VGG16, for training losses. The AlexNet backbone comes as torchvision's file; no
Python package ships it.
"""

import os
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops

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
CHUNK = 16  # frames at once
LEAST = 32  # pixels of a side: below it the second pooling has nothing left


class AlexLPIPS:
    """The distance of two clips, frame by frame.

    Args:
        convolutions: (weight, bias) of each.
        heads: weights of each layer's channels.
    """

    def __init__(self, convolutions: list[tuple[np.ndarray, np.ndarray]], heads: list[np.ndarray]):
        self.convolutions = [(Tensor(weight), Tensor(bias)) for weight, bias in convolutions]
        self.heads = [Tensor(head.reshape(1, -1, 1, 1)) for head in heads]
        self.mean, self.std = (Tensor(np.array(value, np.float32).reshape(1, 3, 1, 1)) for value in (_MEAN, _STD))

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
        chunks = range(0, len(a), CHUNK)
        return [
            value for i in chunks for value in self._distances(_tensor(a[i : i + CHUNK]), _tensor(b[i : i + CHUNK]))
        ]

    def _distances(self, x: Tensor, y: Tensor) -> list[float]:
        total = 0
        for u, v, head in zip(self._features(x), self._features(y), self.heads, strict=True):
            total = total + (((u - v) ** 2) * head).sum(1).mean((1, 2))
        return total.asnumpy().tolist()

    def _features(self, x: Tensor) -> list[Tensor]:
        """Of every layer, divided by their norm over channels."""
        x, out = (x - self.mean) / self.std, []
        for (weight, bias), stride, padding, pooled in zip(
            self.convolutions, STRIDES, PADDINGS, POOLED_BEFORE, strict=True
        ):
            x = ops.max_pool2d(x, 3, 2) if pooled else x
            x = ops.relu(ops.conv2d(x, weight, bias, stride, "pad", padding))
            out.append(x / (ops.sqrt((x * x).sum(1, keepdims=True)) + 1e-10))
        return out


def _tensor(frames: np.ndarray) -> Tensor:
    """Frames (n, H, W, 3) as (n, 3, H, W) in [-1, 1]."""
    pixels = frames / np.float32(127.5) if frames.dtype == np.uint8 else frames.astype(np.float32) * 2
    return Tensor(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) - 1, np.float32))


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
