"""LPIPS between successive frames, with a VGG16 file."""

from functools import cache

import numpy as np

from mindsora.curate.settings import Measures
from mindsora.errors import InputError

LPIPS_SIDE = 256  # pixels of the longer side
_PAIRS = 8  # compared at once


def distances(clip: np.ndarray, measures: Measures) -> np.ndarray:
    """(T - 1,) LPIPS of successive frames of a clip (T, H, W, 3) uint8."""
    judge = _judge(measures.lpips.backbone, measures.lpips.sha256)
    from mindspore import Tensor

    pixels = clip.astype(np.float32) / 127.5 - 1
    pairs = [slice(i, min(i + _PAIRS, len(clip) - 1)) for i in range(0, len(clip) - 1, _PAIRS)]
    values = [judge(Tensor(pixels[:-1][one][None]), Tensor(pixels[1:][one][None])).asnumpy()[0] for one in pairs]
    return np.concatenate(values) if values else np.zeros(0, np.float32)


@cache
def _judge(backbone: str, sha256: str):
    if not backbone:
        raise InputError("LPIPS needs its backbone: --set lpips.backbone=FILE with the VGG16 of torchvision")
    from mindsora.media.lpips import BACKBONE_SHA256, load_lpips

    return load_lpips(backbone, sha256 or BACKBONE_SHA256)
