"""Fine-tuning on a few clips: a step takes latents and captions that were encoded once and stay in memory.

Shapes: N clips, B of them in a step, c channels of t x h x w latents, r frames each; L text tokens of width D.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from mindsora.data.frame_masks import compress
from mindsora.data.latents import masked_clip
from mindsora.data.order import EpochOrder
from mindsora.models.autoencoder import VideoAutoencoder
from mindsora.train.loop import Batch

TASKS = {"t2iv": 1.0, "i2v": 4.0, "transition": 2.0, "continuation": 2.0, "random_temporal": 1.0}
VERSIONS = 4  # of every clip with frames hidden


class Encoded(NamedTuple):
    """Clips and captions as the denoiser sees them. The last row of the texts is the empty caption.

    Attributes:
        mean, deviation: of the normalised latents, (N, c, t, h, w) float32.
        text: numbers of the captions of every clip.
        conditions: states (T, 1, L, D) and mask (T, 1, L) of T texts, and pooled text where the model has it.
        frames: (N, VERSIONS, c + r, t, h, w), latents of the clips with frames hidden, then the masks; None for a
            denoiser that takes text alone.
    """

    mean: np.ndarray
    deviation: np.ndarray
    text: Sequence[Sequence[int]]
    conditions: tuple[np.ndarray, ...]
    frames: np.ndarray | None


def encode_clip(vae: VideoAutoencoder, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, H, W, 3) in [-1, 1] -> mean and deviation (c, t, h, w) of the normalised latents."""
    posterior = vae.encode(_pixels(video), chunked=True)
    mean, beside = posterior.mean, posterior.mean + posterior.std()
    mean, beside = (vae.normalise_latents(z).asnumpy()[0].astype(np.float32) for z in (mean, beside))
    return mean, beside - mean


def encode_frames(vae: VideoAutoencoder, video: np.ndarray, release: str, number: int) -> np.ndarray:
    """VERSIONS times a clip (T, H, W, 3) with other frames hidden: (VERSIONS, c + r, t, h, w).

    release: one of `mindsora.data.frame_masks.RELEASES`. number: of the clip, for the draws.
    """
    rows = []
    for version in range(VERSIONS):
        shown = (127.5 * (video.clip(-1, 1) + 1)).round().astype(np.uint8)
        hidden, mask = masked_clip(shown, TASKS, (number, version))
        z = vae.normalise_latents(vae.encode(_pixels(hidden), chunked=True).mode()).asnumpy()[0]
        whole = np.broadcast_to(mask[None, None, :, None, None], (1, 1, *video.shape[:3]))
        stride = (vae.config.temporal_stride, video.shape[1] // z.shape[2], video.shape[2] // z.shape[3])
        rows.append(np.concatenate((z, compress(whole, stride, release)[0])))
    return np.stack(rows).astype(np.float32)


def _pixels(video: np.ndarray) -> Tensor:
    return Tensor(np.ascontiguousarray(video.transpose(3, 0, 1, 2)[None], np.float32))


def batches(encoded: Encoded, levels: Callable, seed: int, batch: int, dropout: float) -> Callable[[int], Batch]:
    """Return the function from a step's number to the arrays of a loss of `mindsora.train.methods.denoising`.

    Args:
        levels: (rng, B, (h, w)) -> noise levels (B,), in the objective's units.
        batch: clips per step; a batch may take a clip twice where there are fewer.
        dropout: share of captions replaced by the empty one.
    """
    order, empty = EpochOrder(seed, len(encoded.mean), batch), len(encoded.conditions[0]) - 1

    def arrays(step: int) -> Batch:
        rng, indices = np.random.default_rng((seed, step)), order(step)
        posterior, noise = rng.standard_normal((2, batch, *encoded.mean.shape[1:]), np.float32)
        x0 = encoded.mean[indices] + encoded.deviation[indices] * posterior
        level = levels(rng, batch, x0.shape[-2:])
        texts = [encoded.text[index][rng.integers(len(encoded.text[index]))] for index in indices]
        texts = np.where(rng.random(batch) < dropout, empty, texts)
        conditions = tuple(rows[texts] for rows in encoded.conditions)
        if encoded.frames is not None:
            conditions += (encoded.frames[indices, rng.integers(VERSIONS, size=batch)],)
        return (x0, noise, level, *conditions)

    return arrays
