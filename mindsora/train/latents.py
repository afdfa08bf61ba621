"""The latents of the training clips: encoded once, kept in one file, shifted and scaled."""

import hashlib
import json
import os
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
from mindsora.data.procedural import clip
from mindsora.errors import InputError
from mindsora.models.wfvae import WFVAE
from mindsora.train.export import write_json
from mindsora.train.recipe import DenoiserData
from mindsora.train.vae import as_pixels

_ENCODED_AT_ONCE = 10


class Latents(NamedTuple):
    """Posteriors of all clips, (N, L, t, h, w) float32, and what the denoiser sees of z: (z - shift) * scale."""

    mean: np.ndarray
    logvar: np.ndarray
    shift: np.ndarray  # (L, 1, 1, 1)
    scale: np.ndarray

    def draw(self, clips: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Shifted and scaled samples (B, L, t, h, w) of some clips' posteriors; noise of that shape."""
        z = self.mean[clips] + np.exp(0.5 * self.logvar[clips]) * noise
        return (z - self.shift) * self.scale


def prepare_latents(folder: Path, file: Path, data: DenoiserData) -> Latents:
    """The training clips' latents, from `file`, or encoded now and written there.

    The shift centres every channel of the samples over the clips; the scale, one for all, brings the widest channel to
    unit variance. Both are written to the autoencoder's config.json, where the pipeline reads them.

    Args:
        folder: of the trained WF-VAE.

    Raises:
        InputError: no such model, or the file belongs to another one or to other clips.
    """
    config = read_json(folder / "config.json")
    checksum = hashlib.sha256()
    for path in weight_files(folder):
        checksum.update(path.read_bytes())
    source = {"vae": checksum.hexdigest(), "clips": data.clips, "frames": data.frames, "size": data.size}
    if file.exists():
        mean, logvar = _read(file, source)
    else:
        mean, logvar = _encode(ckpt_convert.load(WFVAE.from_upstream(config), folder), data)
        temporary = file.with_name(file.name + ".partial")
        save_file({"mean": mean, "logvar": logvar}, temporary, metadata={"source": json.dumps(source)})
        os.replace(temporary, file)

    axes = (0, 2, 3, 4)
    shift = mean.mean(axes, dtype=np.float64)
    # Law of total variance: of the means, and within the posteriors. Samples, not modes, are what is trained on.
    variance = mean.var(axes, dtype=np.float64) + np.exp(logvar).mean(axes, dtype=np.float64)
    # One scale keeps the channels in their order: places and sizes have most variance and show through more noise, fine
    # outlines have least. With unit variance in each, all of it had to be decided at once, and outlines came out blurred.
    scale = np.full_like(shift, 1 / np.sqrt(variance.max()))
    shift, scale = np.round(shift, 6), np.round(scale, 6)
    write_json(folder / "config.json", config | {"scale": scale.tolist(), "shift": shift.tolist()})
    column = (-1, 1, 1, 1)
    return Latents(mean, logvar, shift.reshape(column).astype(np.float32), scale.reshape(column).astype(np.float32))


def _read(file: Path, source: dict) -> tuple[np.ndarray, np.ndarray]:
    try:
        with safe_open(file, framework="np") as latents:
            found = json.loads((latents.metadata() or {}).get("source", "{}"))
            arrays = latents.get_tensor("mean"), latents.get_tensor("logvar")
    except (SafetensorError, OSError) as error:
        raise InputError(f"latents {str(file)!r} cannot be read ({error}); remove the file to encode again") from error
    if differ := sorted(key for key in source if found.get(key) != source[key]):
        raise InputError(f"latents {str(file)!r} were encoded with another {', '.join(differ)}; "
                         "remove the file to encode again")
    return arrays


def _encode(vae: WFVAE, data: DenoiserData) -> tuple[np.ndarray, np.ndarray]:
    encode = ms.jit(vae.set_train(False).encode_moments)
    moments = []
    for start in tqdm(range(0, data.clips, _ENCODED_AT_ONCE), desc="encoding clips", disable=None):
        # The last batch is filled up: another size would compile another graph.
        numbers = [min(i, data.clips - 1) for i in range(start, start + _ENCODED_AT_ONCE)]
        clips = np.stack([as_pixels(clip(i, "train", data.size, data.frames)[0]) for i in numbers])
        moments.append(encode(Tensor(np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3)))).asnumpy())
    mean, logvar = np.split(np.concatenate(moments)[: data.clips], 2, axis=1)
    return np.ascontiguousarray(mean), logvar.clip(-30, 20)
