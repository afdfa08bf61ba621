"""Latents of a source's clips, and of clips with frames hidden: encoded once, stored in a file, shifted and scaled."""

import hashlib
import itertools
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from mindsora import ckpt_convert
from mindsora.ckpt_convert.checkpoint import weight_files
from mindsora.config import read_json
from mindsora.data.frame_masks import (
    compress,
    draw_given,
    draw_task,
    frame_mask,
    hide,
    noise_given,
    training_noise_level,
)  # fmt: skip
from mindsora.data.source import Source, as_pixels
from mindsora.errors import InputError, shown
from mindsora.files import arrays_sha256, whole_file, write_json
from mindsora.models.wfvae import WFVAE, WFVAEConfig

_ENCODED_AT_ONCE = 10


class Latents(NamedTuple):
    """Posteriors of all clips, (N, L, t, h, w) float32, with shift and scale; the denoiser sees (z - shift) * scale."""

    mean: np.ndarray
    logvar: np.ndarray
    shift: np.ndarray  # (L, 1, 1, 1)
    scale: np.ndarray

    def draw(self, clips: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Shifted and scaled samples (B, L, t, h, w) of some clips' posteriors; noise of that shape."""
        z = self.mean[clips] + np.exp(0.5 * self.logvar[clips]) * noise
        return (z - self.shift) * self.scale


class MaskedLatents(NamedTuple):
    """Extra input of the inpainting model: latents and masks of D versions of every clip with frames hidden.

    Attributes:
        latents: (N, D, L, t, h, w) float32, shifted and scaled like the clips' own.
        masks: (N, D, r, t) float32, 1 for the pixel frames of a latent frame that the model must generate.
    """

    latents: np.ndarray
    masks: np.ndarray

    def take(self, clips: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """(B, L + r, t, h, w): latents, then masks, of these draws (B,) of these clips (B,)."""
        z, masks = self.latents[clips, draws], self.masks[clips, draws, ..., None, None]
        return np.concatenate((z, np.broadcast_to(masks, masks.shape[:3] + z.shape[3:])), 1)


def prepare_latents(folder: Path, file: Path, source: Source) -> Latents:
    """Read the latents of all clips of a source from `file`, or encode them and write the file.

    The shift centres every channel of the samples over the clips; one scale for all channels brings the widest channel
    to unit variance. Both go into the autoencoder's config.json, where the pipeline reads them.

    Args:
        folder: of the trained WF-VAE.

    Raises:
        InputError: no such model, or the file belongs to another model or to other clips.
    """
    config = read_json(folder / "config.json")

    def encode():
        videos = (as_pixels(source.video(i)) for i in range(len(source)))
        mean, logvar = np.split(_encode(folder, videos, len(source), "encoding clips"), 2, axis=1)
        return {"mean": np.ascontiguousarray(mean), "logvar": logvar.clip(-30, 20)}

    mean, logvar = _kept(file, _identity(folder, source), ("mean", "logvar"), encode)
    axes = (0, 2, 3, 4)
    shift = mean.mean(axes, dtype=np.float64)
    # Law of total variance: variance of the means plus variance within the posteriors, as training uses samples, not modes.
    variance = mean.var(axes, dtype=np.float64) + np.exp(logvar).mean(axes, dtype=np.float64)
    # One scale keeps the order of the channels: places and sizes have most variance and show through more noise, fine
    # outlines have least. With unit variance in each channel the model had to decide all at once and blurred outlines.
    scale = np.full_like(shift, 1 / np.sqrt(variance.max()))
    shift, scale = np.round(shift, 6), np.round(scale, 6)
    write_json(folder / "config.json", config | {"scale": scale.tolist(), "shift": shift.tolist()})
    column = (-1, 1, 1, 1)
    return Latents(mean, logvar, shift.reshape(column).astype(np.float32), scale.reshape(column).astype(np.float32))


def prepare_masked_latents(
    folder: Path, file: Path, source: Source, tasks: dict[str, float], draws: int, clips: Latents
) -> MaskedLatents:
    """Read the latents of the clips with hidden frames from `file`, or encode them and write the file.

    Upstream encodes them in every step with a new mask. On CPU that would take longer than the step itself, so every
    clip gets `draws` fixed masks; a few thousand clips still show every task many hundred times. The latents are modes,
    not samples, as in the pipeline; only the diffusion noise changes from step to step.

    Args:
        folder: of the trained WF-VAE.
        tasks: task -> weight.
        draws: versions of every clip.
        clips: latents of the clips, whose shift and scale apply here too.

    Raises:
        InputError: no such model, or the file belongs to another model, to other clips or to other tasks.
    """

    def encode():
        masks = np.zeros((len(source), draws, source.frames), np.float32)

        def videos():
            for i in range(len(source)):
                video = source.video(i)
                for d in range(draws):
                    hidden, masks[i, d] = masked_clip(video, tasks, (i, d))
                    yield hidden

        moments = _encode(folder, videos(), len(source) * draws, "encoding clips with hidden frames")
        mean = np.ascontiguousarray(moments[:, : moments.shape[1] // 2])
        return {"mean": mean.reshape(len(source), draws, *mean.shape[1:]), "masks": masks}

    identity = _identity(folder, source) | {"draws": draws, "tasks": dict(tasks)}
    mean, masks = _kept(file, identity, ("mean", "masks"), encode)
    stride = WFVAEConfig.from_upstream(read_json(folder / "config.json")).temporal_stride
    flat = masks.reshape(-1, 1, source.frames, 1, 1)
    compressed = compress(np.broadcast_to(flat, (*flat.shape[:3], 2, 2)), (stride, 2, 2))  # the same at every place
    return MaskedLatents((mean - clips.shift) * clips.scale, compressed.reshape(*masks.shape[:2], stride, -1))


def masked_clip(video: np.ndarray, tasks: dict[str, float], seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Hide the frames that a drawn task does not give, and add noise to the others.

    Args:
        video: (T, H, W, 3) uint8.
        tasks: task -> weight.
        seed: of the task, the given frames and the noise.

    Returns:
        pixels (T, H, W, 3) float32, in [-1, 1] before noise and -1 in hidden frames, and the mask (T,), 1 for hidden
        frames.
    """
    rng = np.random.default_rng(seed)
    python = random.Random(int(rng.integers(2**32)))  # `draw_task` draws as upstream does
    mask = frame_mask(draw_given(draw_task(tasks, len(video), python), len(video), python), len(video))
    pixels = as_pixels(hide(video, mask.reshape(-1, 1, 1, 1)))
    level = training_noise_level(rng.standard_normal(1), rng.random(1))
    noise = rng.standard_normal(pixels.shape, np.float32)
    return noise_given(pixels[None], mask.reshape(1, -1, 1, 1, 1), level, noise)[0], mask


def _identity(folder: Path, source: Source) -> dict:
    """Everything that determines the latents, as JSON values."""
    checksum = hashlib.sha256()
    for path in weight_files(folder):
        checksum.update(path.read_bytes())
    return {"vae": checksum.hexdigest()} | source.identity()


def _kept(
    file: Path, identity: dict, names: tuple[str, ...], encode: Callable[[], dict[str, np.ndarray]]
) -> tuple[np.ndarray, ...]:
    """Read the arrays of these names from `file`, or write the arrays that `encode` returns to it."""
    if file.exists():
        return _read(file, identity, names)
    arrays = encode()
    metadata = {"source": json.dumps(identity), "sha256": arrays_sha256(arrays, identity)}
    with whole_file(file) as temporary:
        save_file(arrays, temporary, metadata=metadata)
    return tuple(arrays[name] for name in names)


def _read(file: Path, identity: dict, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Arrays of the file. InputError: it is damaged, or of another model or other clips."""
    again = "remove the file to encode again"
    try:
        with safe_open(file, framework="np") as latents:
            metadata = latents.metadata() or {}
            recorded = json.loads(metadata.get("source", ""))
            arrays = {name: latents.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"latents {shown(file)} cannot be read ({shown(str(error))}); {again}") from error
    if not isinstance(recorded, dict):
        raise InputError(f"latents {shown(file)} do not say what they are of; {again}")
    if differ := sorted(key for key in identity if recorded.get(key) != identity[key]):
        raise InputError(f"latents {shown(file)} were encoded with another {', '.join(differ)}; {again}")
    if metadata.get("sha256") != arrays_sha256(arrays, recorded):
        raise InputError(f"latents {shown(file)} are damaged: their checksum differs; {again}")
    return tuple(arrays.values())


def _encode(folder: Path, videos: Iterable[np.ndarray], count: int, what: str) -> np.ndarray:
    """Moments (count, 2L, t, h, w) of `count` videos (T, H, W, 3) in [-1, 1] from the autoencoder in `folder`."""
    vae = ckpt_convert.load(WFVAE.from_upstream(read_json(folder / "config.json")), folder)
    encode = ms.jit(vae.set_train(False).encode_moments)
    videos, moments = iter(videos), []
    for _ in tqdm(range(0, count, _ENCODED_AT_ONCE), desc=what, disable=bool(os.environ.get("TQDM_DISABLE")) or None):
        batch = list(itertools.islice(videos, _ENCODED_AT_ONCE))
        batch += batch[-1:] * (_ENCODED_AT_ONCE - len(batch))  # another batch size would compile another graph
        pixels = np.stack(batch).transpose(0, 4, 1, 2, 3)
        moments.append(encode(Tensor(np.ascontiguousarray(pixels))).asnumpy())
    return np.concatenate(moments)[:count]
