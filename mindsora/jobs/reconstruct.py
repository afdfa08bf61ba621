"""Any video through an autoencoder and back."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mindsora.errors import InputError
from mindsora.media import psnr, ssim
from mindsora.models import registry
from mindsora.shapes import SPATIAL_STRIDE, ShapeRules, Tiling
from mindsora.shipped import check_files
from mindsora.zoo import BOX, ModelIndex, autoencoders_in_the_box, find

DEFAULT = "nano_vae_real"  # trained on real video; nano's own autoencoder knows drawn shapes alone
MAX_FRAMES = 121  # the longest clip of the v1.5 line
MAX_SIDE = 4096  # far above any model's own clips; a mistyped size is refused before it asks for all memory


def rules(model: str) -> ShapeRules:
    """Sizes a model's autoencoder accepts by itself: no patches, hence multiples of 8; no limit of training sizes.

    model: a name of a model or of an autoencoder in the box, a model folder, or the folder of an autoencoder alone, with
        config.json and weights.
    """
    if _alone(model):
        stride = (_without_values(model)[0].config.temporal_stride, SPATIAL_STRIDE, SPATIAL_STRIDE)
    else:
        stride = ModelIndex.read(find(model)).vae_stride
    return ShapeRules(stride, 1, MAX_FRAMES, MAX_SIDE, MAX_SIDE)


def load_vae(model: str):
    """The float32 autoencoder of a model, nothing else of it; model: as `rules` has it."""
    from mindsora.ckpt_convert import load

    cell, folder = _without_values(model)
    return load(cell, folder).set_train(False)


def _alone(model: str) -> Path | None:
    """The folder of an autoencoder alone; None for a model."""
    folder = BOX / model.lower() if model.lower() in autoencoders_in_the_box() else Path(model)
    # os.path.isfile, since Path.is_file raises for a name that is too long
    alone = os.path.isfile(folder / "config.json") and not os.path.isfile(folder / "model_index.json")
    return folder if alone else None


def _without_values(model: str) -> tuple:
    """The Cell of a model's autoencoder, and the folder that it is loaded from."""
    from mindsora.ckpt_convert import open_checkpoint
    from mindsora.ckpt_convert.recognise import build_cell, recognise
    from mindsora.pipelines.components import build, cell_specs

    if folder := _alone(model):
        check_files(folder)
        with open_checkpoint(folder) as checkpoint:
            found = recognise(checkpoint)
        if found.spec.component != "vae":
            autoencoders = " or ".join(registry.names("vae"))
            raise InputError(f"{model!r} holds a {found.model}; give a model folder, or that of a {autoencoders}")
        return build_cell(found.model, found.config), folder
    folder = find(model)
    return build(folder / "vae", cell_specs(ModelIndex.read(folder))["vae"]), folder / "vae"


def fit(
    frames: np.ndarray, legal: ShapeRules, height: int | None, width: int | None, num_frames: int | None
) -> np.ndarray:
    """Bring a video to a size the autoencoder accepts.

    With neither height nor width the video keeps its scale and loses the few outer pixels beyond multiples of 8. With
    both it is scaled until it covers height x width (Lanczos, aspect kept), then cropped at the centre; one alone sets
    the other by the video's aspect, to the nearest multiple of 8. Of the frames the first `num_frames` remain; by
    default as many as are legal.

    Args:
        frames: (T, H, W, 3) uint8.

    Returns:
        (num_frames, height, width, 3) uint8.

    Raises:
        InputError: a height, width or number of frames that is not legal, or more frames than the video has.
    """
    total, h, w = frames.shape[:3]
    if min(h, w) < 8:
        raise InputError(f"the video is {h} x {w} pixels; the autoencoder needs at least 8 x 8")
    keep_scale = height is None and width is None
    height, width = _size(h, w, height, width)
    stride = legal.vae_stride[0]
    longest = (min(total, MAX_FRAMES) - 1) // stride * stride + 1
    count = longest if num_frames is None else num_frames
    legal.check(count, height, width)
    if count > total:
        raise InputError(f"num_frames = {count}, but the video has {total}; nearest legal: {longest}")
    frames = frames[:count]
    if keep_scale:
        top, left = (h - height) // 2, (w - width) // 2
        return frames[:, top : top + height, left : left + width]
    size, lanczos = (width, height), Image.Resampling.LANCZOS
    return np.stack([np.asarray(ImageOps.fit(Image.fromarray(frame), size, lanczos)) for frame in frames])


def _size(h: int, w: int, height: int | None, width: int | None) -> tuple[int, int]:
    """The height and width that `fit` brings a video of h x w to."""
    if height is not None:
        return height, max(8, round(height * w / h / 8) * 8) if width is None else width
    if width is not None:
        return max(8, round(width * h / w / 8) * 8), width
    return min(h, MAX_SIDE) // 8 * 8, min(w, MAX_SIDE) // 8 * 8


def reconstruct(vae, frames: np.ndarray, tile: Tiling | None = None, seed: int | None = None) -> np.ndarray:
    """Encode and decode one clip, in temporal chunks. (T, H, W, 3) uint8 to the same.

    Args:
        tile: work in spatial tiles besides, to nearly the same result (see mindsora.models.tiling).
        seed: decode a sample of the posterior, not its mode; None: the mode.
    """
    from mindspore import Tensor

    x = frames.transpose(3, 0, 1, 2)[None].astype(np.float32) / 127.5 - 1  # (1, 3, T, H, W)
    posterior = vae.encode(Tensor(x), chunked=True, tile=tile)
    if seed is None:
        z = posterior.mode()
    else:
        z = posterior.sample(
            Tensor(np.random.RandomState(seed).standard_normal(posterior.mean.shape).astype(np.float32))
        )
    y = vae.decode(z, chunked=True, tile=tile).asnumpy()[0]  # (3, T, H, W)
    return np.rint((y.astype(np.float32).clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 3, 0)


@dataclass(frozen=True)
class Reconstruction:
    """A clip and what the autoencoder made of it, both (T, H, W, 3) uint8."""

    original: np.ndarray
    result: np.ndarray

    @property
    def side_by_side(self) -> np.ndarray:
        """(T, H, 2 W, 3): original left, reconstruction right."""
        return np.concatenate([self.original, self.result], axis=2)

    @property
    def psnr(self) -> float:
        """In dB."""
        return psnr(self.result, self.original)

    @property
    def ssim(self) -> float | None:
        """None below 11 pixels, the window of the measure."""
        return ssim(self.result, self.original) if min(self.original.shape[1:3]) >= 11 else None


def reconstruct_video(
    frames: np.ndarray,
    model: str = DEFAULT,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    tile: Tiling | None = None,
) -> Reconstruction:
    """Bring a video to a legal size, and reconstruct it with a model's autoencoder.

    Args:
        frames: (T, H, W, 3) uint8.
        model: as `rules` has it.
        height, width, num_frames: as `fit` has them.

    Raises:
        InputError: whatever `fit` refuses, or a model that cannot be read.
    """
    original = fit(frames, rules(model), height, width, num_frames)
    return Reconstruction(original, reconstruct(load_vae(model), original, tile))
