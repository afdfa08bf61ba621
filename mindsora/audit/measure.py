"""Measurements behind `mindsora claims`: at the user's shape, on the user's device, with weights of no meaning.

Time does not depend on a weight's value, so nothing has to be downloaded. What is compared runs in turns.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

from mindsora.kernels.skiparse_attention import skiparse_attention
from mindsora.models import SUV
from mindsora.models.suv import SUVConfig


def sparse_against_dense(
    config: SUVConfig, latents: tuple[int, int, int], text: int, dtype=ms.float32, jit: str = "O0", repeats: int = 3
) -> dict:
    """Seconds of one forward pass with the configuration's sparsity and with none, and of their attention alone.

    Args:
        latents: latent frames, rows, columns.
        text: text tokens.
    """
    dense = replace(config, sparse_n=(1,) * len(config.sparse_n))
    inputs = suv_inputs(config, latents, text, dtype)
    t, h, w = latents
    tokens = t * (h // config.patch_size) * (w // config.patch_size)
    names = {"sparse": config, "dense": dense}
    forward = {name: compiled(filled(SUV, one, dtype), jit) for name, one in names.items()}
    found = in_turns({name: lambda f=f: f(*inputs) for name, f in forward.items()}, repeats)
    kinds = {(name, i): kind for name, one in names.items()
             for i, kind in enumerate(_attention(one, tokens, text, dtype, jit))}
    parts = in_turns({key: call for key, (_, call) in kinds.items()}, repeats)
    alone = dict.fromkeys(names, 0.0)
    for (name, i), samples in parts.items():
        alone[name] += kinds[name, i][0] * statistics.median(samples)
    seconds = {name: statistics.median(samples) for name, samples in found.items()}
    return {
        "tokens": tokens, "repeats": repeats,
        "seconds": {name: spread(samples) for name, samples in found.items()},
        "attention_seconds": alone,
        "less_time_percent": 100 * (1 - seconds["sparse"] / seconds["dense"]),
        "attention_less_time_percent": 100 * (1 - alone["sparse"] / alone["dense"]),
    }


def feature_cache(
    cells: dict[str, nn.Cell], size: tuple[int, int, int], lengths: tuple[int, int], jit: str = "O0", repeats: int = 3
) -> dict:
    """Seconds that a training step of one clip spends in the frozen encoders, and in the denoiser.

    Args:
        cells: transformer, vae, text_encoder, text_encoder_2; filled.
        size: frames, height, width.
        lengths: tokens of the two text encoders.
    """
    transformer, vae = cells["transformer"], cells["vae"]
    frames, height, width = size
    latents = ((frames - 1) // vae.config.temporal_stride + 1, height // 8, width // 8)
    dtype = next(transformer.get_parameters()).dtype
    video = Tensor(np.zeros((1, 3, frames, height, width), np.float32), next(vae.get_parameters()).dtype)
    ids, ids_2 = (Tensor(np.ones((1, length), np.int32)) for length in lengths)
    encode = compiled(_Encoders(vae, cells["text_encoder"], cells["text_encoder_2"]), jit)
    loss = _Loss(transformer.set_train())
    gradient = ms.value_and_grad(loss, None, list(transformer.trainable_params()))
    step = gradient if jit == "off" else ms.jit(gradient, jit_level=jit)
    inputs = suv_inputs(transformer.config, latents, lengths[0], dtype)
    calls = {"encoders": lambda: encode(video, ids, ids_2), "denoiser_step": lambda: step(*inputs)}
    found = in_turns(calls, repeats)
    seconds = {name: statistics.median(samples) for name, samples in found.items()}
    return {
        "repeats": repeats,
        "seconds": {name: spread(samples) for name, samples in found.items()},
        "less_time_percent": 100 * seconds["encoders"] / sum(seconds.values()),
    }


def filled(cell_class: type, config, dtype) -> nn.Cell:
    """A Cell whose every parameter is 0.01: made on the device, as quick for eight billion as for eight."""
    with no_init_parameters():
        cell = cell_class(config).set_train(False)
    for parameter in cell.get_parameters():
        parameter.set_data(ops.full(parameter.shape, 0.01, dtype=dtype))
    return cell


def suv_inputs(config: SUVConfig, latents: tuple[int, int, int], text: int, dtype) -> tuple[Tensor, ...]:
    """Arguments of one call of SUV, one row, without masks."""
    rng = np.random.default_rng(0)
    shapes = ((1, config.in_channels, *latents), (1,), (1, 1, text, config.caption_channels),
              (1, 1, config.pooled_projection_dim))
    x, time_, words, pooled = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Tensor(x, dtype), Tensor(time_, ms.float32), Tensor(words, dtype), Tensor(pooled, dtype)


def compiled(cell: nn.Cell, jit: str) -> Callable:
    return cell if jit == "off" else ms.jit(cell, jit_level=jit)


def in_turns(calls: dict, repeats: int) -> dict:
    """Seconds of every call (name -> call), `repeats` times in turns, after one each that compiles."""
    for call in calls.values():
        _wait(call())
    found = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            _wait(call())
            found[name].append(time.perf_counter() - start)
    return found


def spread(samples: list[float]) -> dict[str, float]:
    return {"median": statistics.median(samples), "lowest": min(samples), "highest": max(samples)}


def _wait(result) -> None:
    """Until the result is there: devices work behind the caller's back."""
    while isinstance(result, tuple):
        result = result[0]
    result.asnumpy()


def _attention(config: SUVConfig, tokens: int, text: int, dtype, jit: str) -> list[tuple[int, Callable]]:
    """For every kind of block: how many there are, and a call of its attention."""
    rng = np.random.default_rng(0)
    heads = (config.num_heads, config.head_dim)
    video = [Tensor(rng.standard_normal((1, tokens, *heads)).astype(np.float32), dtype) for _ in range(3)]
    words = [Tensor(rng.standard_normal((1, text, *heads)).astype(np.float32), dtype) for _ in range(3)]
    calls = []
    for n in sorted(set(config.sparse_n)):
        blocks = sum(count for count, sparse_n in zip(config.num_layers, config.sparse_n) if sparse_n == n)
        for group in (False, True):
            cell = compiled(_Attention(n, group), jit)
            calls.append((blocks // 2, lambda cell=cell: cell(*video, *words)))
    return calls


class _Attention(nn.Cell):
    def __init__(self, sparse_n: int, group: bool):
        super().__init__()
        self.sparse_n, self.group = sparse_n, group

    def construct(self, q, k, v, text_q, text_k, text_v):
        return skiparse_attention(q, k, v, text_q, text_k, text_v, sparse_n=self.sparse_n, group=self.group)


class _Encoders(nn.Cell):
    """The frozen encoders of a training step."""

    def __init__(self, vae, text_encoder, text_encoder_2):
        super().__init__(auto_prefix=False)
        self.vae, self.text_encoder, self.text_encoder_2 = vae, text_encoder, text_encoder_2

    def construct(self, video, ids, ids_2):
        moments = self.vae.encode_moments(video)
        # One number that depends on all three, so that waiting for it waits for everything.
        return moments.mean() + self.text_encoder(ids).mean() + self.text_encoder_2(ids_2)[0].mean()


class _Loss(nn.Cell):
    def __init__(self, transformer):
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, *inputs):
        velocity = self.transformer(*inputs).astype(ms.float32)
        return (velocity * velocity).mean()
