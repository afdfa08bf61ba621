"""Shared code of the denoisers' methods: batches of latents with captions, and the logged part of the loss."""

from collections.abc import Callable
from functools import cache

import numpy as np
from mindspore import Tensor, ops

from mindsora.data.latents import Latents
from mindsora.data.order import EpochOrder
from mindsora.data.source import Source
from mindsora.text.templates import template_for

PARTS = ("noisy_loss",)  # loss of the samples that are mostly noise; these levels decide shape and motion
LATENTS = "latents.safetensors"


def noisy_loss(error: Tensor, noisy: Tensor) -> Tensor:
    """error (B, c, t, h, w), mask of samples that are mostly noise (B,) -> PARTS (1,)."""
    noisy = noisy.astype(error.dtype)
    squares = (error * error).reshape(error.shape[0], -1).mean(1)  # (B,)
    return ops.stack(((squares * noisy).sum() / (noisy.sum() + 1e-6),))


def captioned_latents(
    seed: int, order: EpochOrder, clips: Source, latents: Latents, levels: Callable, tokenizers, dropout: float
) -> Callable[[int], tuple[np.ndarray, ...]]:
    """Return the function from a step's number to x0, noise, noise level, and each tokeniser's ids and mask.

    Args:
        latents: of `clips`.
        levels: (rng, latents (B, c, t, h, w)) -> noise levels (B,), in the objective's units.
        dropout: share of captions replaced by the empty one.
    """
    clean = cache(lambda text: template_for(clips.template).apply(text)[0])  # as the pipeline treats a prompt

    def batch(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng((seed, step))
        wording = np.random.RandomState(rng.integers(2**32))
        indices = order(step)
        x0 = latents.draw(indices, rng.standard_normal((len(indices), *latents.mean.shape[1:]), np.float32))
        noise = rng.standard_normal(x0.shape, np.float32)
        level = levels(rng, x0)
        dropped = rng.random(len(indices)) < dropout
        captions = [clips.caption(int(index), wording) for index in indices]
        captions = ["" if drop else clean(text) for text, drop in zip(captions, dropped)]
        return (x0, noise, level) + tuple(array for tokenizer in tokenizers for array in tokenizer(captions))

    return batch
