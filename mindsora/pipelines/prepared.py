"""What a caller of a pipeline may prepare instead of a seed and a text: a generator, noise, encoded prompts.

The arguments have diffusers' names. (No MindSpore here: a Tensor is read through its methods.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np

from mindsora.errors import InputError, shown

Rng = np.random.Generator | np.random.RandomState

# Encoded prompts: (P, L, C), their masks (P, L) with 1 for tokens, and for v1.5 the pooled vectors (P, C2).
POSITIVE = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
NEGATIVE = tuple(f"negative_{name}" for name in POSITIVE)
EMBEDS = POSITIVE + NEGATIVE


@dataclass(frozen=True, eq=False)
class Prepared:
    """Two are equal only if they are the same object.

    Attributes:
        generator: draws the noise of every clip in turn, in place of the seed.
        latents: unit noise of the clips, (clips, c, t, h, w) float32.
        embeds: arrays by their names in EMBEDS, a row for each prompt; empty where the prompts are texts.
    """

    generator: Rng | None = None
    latents: np.ndarray | None = None
    embeds: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        """Number of encoded prompts."""
        return len(self.embeds[POSITIVE[0]])

    def clip(self, clip: int, prompt: int) -> Prepared:
        """The part of one clip."""
        latents = None if self.latents is None else self.latents[clip : clip + 1]
        embeds = {name: array[prompt : prompt + 1] for name, array in self.embeds.items()}
        return replace(self, latents=latents, embeds=embeds)


def prepare(
    seed: int,
    generator: int | Rng | None,
    latents: Any,
    embeds: Mapping[str, Any],
    pooled: bool,
) -> tuple[int, Prepared | None]:
    """The seed of a call, and what it has prepared, or None.

    Args:
        generator: a whole number is a seed.
        latents, embeds: arrays or Tensors; those that are None are not given.
        pooled: whether the model takes pooled vectors.

    Raises:
        InputError: a seed and a generator; something else than a generator or an array; an incomplete set of `embeds`.
    """
    arrays = {name: _array(name, value) for name, value in embeds.items() if value is not None}
    _check_set(arrays, pooled)
    noise = None if latents is None else _array("latents", latents)
    if generator is not None and seed != 0:
        raise InputError(f"seed = {seed} and generator are both given: give one")
    if isinstance(generator, Integral) and not isinstance(generator, bool):
        seed, generator = int(generator), None
    if generator is not None and not isinstance(generator, Rng):
        raise InputError(
            f"generator is {_kind(generator)}: give a whole number or numpy.random.default_rng(seed); a list of seeds "
            "is one call each (clip i of a call takes seed + i)"
        )
    if generator is None and noise is None and not arrays:
        return seed, None
    return seed, Prepared(generator, noise, arrays)


def check_shapes(given: Prepared, clips: int, latents: tuple[int, ...], width: int, pooled: int | None) -> None:
    """Compare what is prepared with the model and the call.

    Args:
        latents: shape (c, t, h, w) of a clip's latents.
        width, pooled: channels of the encoded text and of the pooled vector.

    Raises:
        InputError: an array of another shape.
    """
    if given.latents is not None and given.latents.shape != (clips, *latents):
        raise InputError(f"latents have the shape {given.latents.shape}, the call needs {(clips, *latents)}")
    rows = {name: len(array) for name, array in given.embeds.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise InputError(f"encoded prompts differ in number: {told}; give a row for each prompt")
    for name, array in given.embeds.items():
        tokens = given.embeds[name.replace("attention_mask", "embeds")].shape[1] if "mask" in name else None
        wanted = (rows[name], tokens) if tokens else (rows[name], pooled) if "pooled" in name else None
        if (wanted and array.shape != wanted) or (not wanted and (array.ndim != 3 or array.shape[2] != width)):
            shape = wanted or ("prompts", "tokens", width)
            raise InputError(f"{name} has the shape {array.shape}, must be ({', '.join(map(str, shape))})")


def _check_set(embeds: Mapping[str, np.ndarray], pooled: bool) -> None:
    """InputError: a part of an encoded prompt is missing, or is one that the model does not take."""
    for names in (POSITIVE, NEGATIVE):
        wanted = names if pooled else names[:2]
        given = [name for name in names if name in embeds]
        if extra := set(given) - set(wanted):
            raise InputError(f"{min(extra)}: the model has no pooled text; leave it out")
        if given and (missing := [name for name in wanted if name not in embeds]):
            raise InputError(f"{given[0]} without {missing[0]}: give both, as pipe.encode_prompt(...).arguments() does")
    if NEGATIVE[0] in embeds and POSITIVE[0] not in embeds:
        raise InputError(f"{NEGATIVE[0]} without {POSITIVE[0]}: give both, or prompts as text")


def _array(name: str, value: Any) -> np.ndarray:
    """float32 values of an array or of a Tensor, whose bfloat16 NumPy does not have."""
    if hasattr(value, "asnumpy"):
        value = value.float().asnumpy()
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name} is {_kind(value)}: give a NumPy array or a MindSpore Tensor")
    return np.asarray(value, np.float32)


def _kind(value: object) -> str:
    return shown(f"{type(value).__module__}.{type(value).__name__}", quote=False)
