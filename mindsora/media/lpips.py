"""LPIPS, the learned perceptual distance of two pictures (arXiv 1801.03924), with the features of VGG16.

The linear weights of version 0.1 come with this package. The VGG16 backbone comes as a file of torchvision's, whose
checksum is known; no Python package ships it.
"""

import os
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindsora.ckpt_convert import open_checkpoint
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.kernels import forms
from mindsora.nn.conv import Conv2d

BACKBONE = "vgg16-397923af.pth"
BACKBONE_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
HEADS = Path(__file__).parent.parent / "weights" / "lpips" / "vgg_heads.safetensors"

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # widths; a pooling between blocks
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]


class LPIPS(nn.Cell):
    """Distance of two clips, frame by frame: two (B, T, H, W, 3) in [-1, 1] -> (B, T). Every weight is frozen."""

    def __init__(self):
        super().__init__()
        self.blocks, before = nn.CellList(), 3
        for widths in BLOCKS:
            self.blocks.append(nn.CellList([Conv2d(i, o) for i, o in zip((before, *widths), widths)]))
            before = widths[-1]
        self.heads = [
            Parameter(initializer("zeros", (widths[-1],)), name=f"heads.{i}") for i, widths in enumerate(BLOCKS)
        ]
        self.mean, self.std = Tensor(np.array(_MEAN, np.float32)), Tensor(np.array(_STD, np.float32))
        for parameter in self.get_parameters():
            parameter.requires_grad = False
            parameter.name = f"lpips.{parameter.name}"

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (x - self.mean) / self.std, (y - self.mean) / self.std
        total = 0
        for number in range(len(BLOCKS)):
            x, y = self._features(x, number), self._features(y, number)
            difference = _unit(x) - _unit(y)
            total = total + (difference * difference * self.heads[number]).sum(-1).mean((2, 3))
        return total

    def _features(self, x: Tensor, number: int) -> Tensor:
        if number:
            x = _pooled(x)
        for i in range(len(BLOCKS[number])):
            x = ops.relu(self.blocks[number][i](x)[0])
        return x


def _unit(x: Tensor) -> Tensor:
    """Features divided by their norm over channels."""
    # 1e-20: without it the gradient of the root is not finite where every feature is 0.
    return x / (ops.sqrt((x * x).sum(-1, keepdims=True) + 1e-20) + 1e-10)


def _pooled(x: Tensor) -> Tensor:
    """The largest of every 2 x 2 pixels; an odd last row or column is dropped."""
    b, t, h, w, c = x.shape
    h, w = h // 2, w // 2
    x = forms.cut(forms.cut(x, 2, 0, 2 * h), 3, 0, 2 * w).reshape(b, t, h, 2, w, 2, c)
    x = ops.maximum(forms.narrow(x, 3, 0, 1), forms.narrow(x, 3, 1, 1))
    return ops.maximum(forms.narrow(x, 5, 0, 1), forms.narrow(x, 5, 1, 1)).reshape(b, t, h, w, c)


def load_lpips(backbone: str | os.PathLike, sha256: str = BACKBONE_SHA256) -> LPIPS:
    """LPIPS with the weights of a VGG16 file.

    Args:
        backbone: torchvision's file BACKBONE, or one with the same names of tensors.
        sha256: its checksum.

    Raises:
        InputError: no such file, another checksum, or no VGG16 in it.
    """
    path = Path(backbone)
    if not path.is_file():
        raise InputError(f"LPIPS backbone {shown(str(path))} does not exist; download torchvision's {BACKBONE}")
    if (actual := file_sha256(path)) != sha256:
        raise InputError(
            f"LPIPS backbone {shown(str(path))} has the sha256 {actual[:12]}..., not {sha256[:12]}... of {BACKBONE}; "
            "download it again"
        )
    lpips = LPIPS()
    convs = [conv for block in lpips.blocks for conv in block]
    with open_checkpoint(path) as vgg, open_checkpoint(HEADS) as heads:
        try:
            for conv, number in zip(convs, _places()):
                _fill(conv.weight, vgg[f"features.{number}.weight"].numpy())
                _fill(conv.bias, vgg[f"features.{number}.bias"].numpy())
            for number, head in enumerate(lpips.heads):
                _fill(head, heads[f"lin{number}"].numpy())
        except KeyError as error:
            raise InputError(f"LPIPS backbone {shown(str(path))} has no tensor {error}; give {BACKBONE}") from error
    return lpips


def _places() -> list[int]:
    """Numbers of the convolutions among VGG16's layers: each convolution has a ReLU behind it, each block a pooling."""
    places, place = [], 0
    for widths in BLOCKS:
        places += [place + 2 * i for i in range(len(widths))]
        place += 2 * len(widths) + 1
    return places


def _fill(parameter: Parameter, values: np.ndarray) -> None:
    if values.shape != parameter.shape:
        raise InputError(f"LPIPS backbone: {parameter.name} has the shape {values.shape}, not {parameter.shape}")
    parameter.set_data(Tensor(values.astype(np.float32)))
