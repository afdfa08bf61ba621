"""Measurements behind `mindsora claims`: at the user's shape, on the user's device, with arbitrary weights.

Neither time nor memory depends on a weight's value, so nothing has to be downloaded. Calls to be compared run alternately.
"""

import statistics
import time
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

import mindsora
from mindsora import sampling, zoo
from mindsora.audit.memory import build
from mindsora.config import read_json
from mindsora.kernels.skiparse_attention import skiparse_attention
from mindsora.models import registry
from mindsora.models.spec import ModelSpec
from mindsora.nn.precision import set_precision


def sparse_against_dense(
    spec: ModelSpec,
    config,
    latents: tuple[int, int, int],
    text: int,
    dtype=ms.float32,
    jit: str = "O0",
    repeats: int = 3,
) -> dict:
    """Seconds of one forward pass with the configuration's sparsity and with none, and of their attention alone.

    Args:
        spec, config: a denoiser.
        latents: latent frames, rows, columns.
        text: text tokens.
    """
    dense = spec.cost.dense(config)
    inputs = denoiser_inputs(spec, config, latents, text, dtype)
    t, h, w = latents
    tokens = t * (h // config.patch_size) * (w // config.patch_size)
    names = {"sparse": config, "dense": dense}
    forward = {name: compiled(filled(spec.cell, one, dtype), jit) for name, one in names.items()}
    found = in_turns({name: lambda f=f: f(*inputs) for name, f in forward.items()}, repeats)
    kinds = {
        (name, i): kind
        for name, one in names.items()
        for i, kind in enumerate(_attention(spec, one, tokens, text, dtype, jit))
    }
    parts = in_turns({key: call for key, (_, call) in kinds.items()}, repeats)
    alone = dict.fromkeys(names, 0.0)
    for (name, i), samples in parts.items():
        alone[name] += kinds[name, i][0] * statistics.median(samples)
    seconds = {name: statistics.median(samples) for name, samples in found.items()}
    return {
        "tokens": tokens,
        "repeats": repeats,
        "seconds": {name: spread(samples) for name, samples in found.items()},
        "attention_seconds": alone,
        "less_time_percent": 100 * (1 - seconds["sparse"] / seconds["dense"]),
        "attention_less_time_percent": 100 * (1 - alone["sparse"] / alone["dense"]),
    }


def feature_cache(
    cells: dict[str, nn.Cell], size: tuple[int, int, int], lengths: tuple[int, ...], jit: str = "O0", repeats: int = 3
) -> dict:
    """Seconds that a training step of one clip spends in the frozen encoders, and in the denoiser.

    Args:
        cells: transformer, vae, text_encoder and, if the model has one, text_encoder_2; filled.
        size: frames, height, width.
        lengths: tokens of each text encoder.
    """
    transformer, vae = cells["transformer"], cells["vae"]
    frames, height, width = size
    latents = ((frames - 1) // vae.config.temporal_stride + 1, height // 8, width // 8)
    dtype = next(transformer.get_parameters()).dtype
    video = Tensor(np.zeros((1, 3, frames, height, width), np.float32), next(vae.get_parameters()).dtype)
    ids = [Tensor(np.ones((1, length), np.int32)) for length in lengths]
    encode = compiled(_Encoders(vae, cells["text_encoder"], cells.get("text_encoder_2")), jit)
    loss = _Loss(transformer.set_train())
    gradient = ms.value_and_grad(loss, None, list(transformer.trainable_params()))
    step = gradient if jit == "off" else ms.jit(gradient, jit_level=jit)
    inputs = denoiser_inputs(registry.spec_of(transformer), transformer.config, latents, lengths[0], dtype)
    calls = {"encoders": lambda: encode(video, *ids), "denoiser_step": lambda: step(*inputs)}
    found = in_turns(calls, repeats)
    seconds = {name: statistics.median(samples) for name, samples in found.items()}
    return {
        "repeats": repeats,
        "seconds": {name: spread(samples) for name, samples in found.items()},
        "less_time_percent": 100 * seconds["encoders"] / sum(seconds.values()),
    }


def filled(cell_class: type, config, dtype) -> nn.Cell:
    """A Cell whose every parameter is 0.01: made on the device, equally fast for eight billion values and for eight."""
    with no_init_parameters():
        cell = cell_class(config).set_train(False)
    return fill(set_precision(cell, dtype))


def fill(cell: nn.Cell) -> nn.Cell:
    """Give every parameter 0.01 in its dtype."""
    for parameter in cell.get_parameters():
        parameter.set_data(ops.full(parameter.shape, 0.01, dtype=parameter.dtype))
    return cell


class _AnyWords:
    """A stand-in for a tokeniser: every text has `max_length` tokens."""

    def __init__(self, max_length: int):
        self.max_length = max_length

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.ones((len(texts), self.max_length), np.int32)
        return ids, ids

    def truncated(self, text: str) -> str:
        return ""


def pipeline_without_weights(name_or_dir: str, jit: str):
    """The pipeline of a model, its parameters 0.01 and its tokenisers dummies: as large as the real one.

    Args:
        name_or_dir: as for `mindsora plan`.
    """
    folder = zoo.configuration(name_or_dir)
    index = zoo.ModelIndex.read(folder)
    components = build(folder, None, ms.get_context("device_target"))
    for cell in components.values():
        fill(cell.set_train(False))
    lengths = dict(zip(("tokenizer", "tokenizer_2"), index.max_text_lengths))
    components |= {name: _AnyWords(length) for name, length in lengths.items()}
    scheduler = getattr(sampling, index.scheduler[1])
    components["scheduler"] = scheduler.from_upstream(read_json(folder / "scheduler" / "scheduler_config.json"))
    return getattr(mindsora, index.pipeline)(index, components, jit)


def denoiser_inputs(spec: ModelSpec, config, latents: tuple[int, int, int], text: int, dtype) -> tuple[Tensor, ...]:
    """Arguments of one call of a denoiser, one row, without masks."""
    rng, channels = np.random.default_rng(0), config.in_channels
    if spec.takes_frames:  # masked video and mask
        channels = 2 * channels + config.vae_scale_factor_t
    shapes = [(1, channels, *latents), (1,), (1, 1, text, config.caption_channels)]
    if "text_encoder_2" in spec.companions:
        shapes.append((1, 1, config.pooled_projection_dim))
    x, time_, *words = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Tensor(x, dtype), Tensor(time_, ms.float32), *(Tensor(part, dtype) for part in words)


def compiled(cell: nn.Cell, jit: str) -> Callable:
    return cell if jit == "off" else ms.jit(cell, jit_level=jit)


def in_turns(calls: dict, repeats: int) -> dict:
    """Seconds of every call (name -> call), `repeats` times in turns, after one compiling run of each."""
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
    """Wait for the result, because devices compute asynchronously."""
    while isinstance(result, tuple):
        result = result[0]
    result.asnumpy()


def _attention(spec: ModelSpec, config, tokens: int, text: int, dtype, jit: str) -> list[tuple[int, Callable]]:
    """For every kind of block: how many there are, and a call of its attention of the video to itself (and to the text,
    where both attend together).
    """
    rng = np.random.default_rng(0)
    if hasattr(config, "num_heads"):
        heads = config.num_heads, config.head_dim
    else:
        heads = config.num_attention_heads, config.attention_head_dim
    lengths = [tokens] * 3 + [text] * 3 * spec.joint_text
    inputs = [Tensor(rng.standard_normal((1, length, *heads)).astype(np.float32), dtype) for length in lengths]
    stages, calls = spec.cost.stages(config), []
    for n in sorted({sparse_n for _, sparse_n in stages}):
        blocks = sum(count for count, sparse_n in stages if sparse_n == n)
        for group in (False, True):
            cell = compiled(_Attention(n, group), jit)
            calls.append(((blocks + (not group)) // 2, lambda cell=cell: cell(*inputs)))
    return calls


class _Attention(nn.Cell):
    def __init__(self, sparse_n: int, group: bool):
        super().__init__()
        self.sparse_n, self.group = sparse_n, group

    def construct(self, *inputs):
        return skiparse_attention(*inputs, sparse_n=self.sparse_n, group=self.group)


class _Encoders(nn.Cell):
    """The frozen encoders of a training step."""

    def __init__(self, vae, text_encoder, text_encoder_2):
        super().__init__(auto_prefix=False)
        self.vae, self.text_encoder, self.text_encoder_2 = vae, text_encoder, text_encoder_2

    def construct(self, video, ids, ids_2=None):
        # One number that depends on all of them, so that waiting for it waits for everything.
        found = self.vae.encode_moments(video).mean() + self.text_encoder(ids).mean()
        return found if self.text_encoder_2 is None else found + self.text_encoder_2(ids_2)[0].mean()


class _Loss(nn.Cell):
    def __init__(self, transformer):
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, *inputs):
        velocity = self.transformer(*inputs).astype(ms.float32)
        return (velocity * velocity).mean()
