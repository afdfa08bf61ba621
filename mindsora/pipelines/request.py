"""What a call asks for, checked before anything loads. (No MindSpore here.)"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from mindsora.errors import InputError, shown
from mindsora.pipelines.prepared import NEGATIVE, Prepared
from mindsora.shapes import Tiling
from mindsora.text.cleaning import clean_prompt, lost_words
from mindsora.text.templates import template_for
from mindsora.zoo import ModelIndex

if TYPE_CHECKING:
    from mindsora.pipelines.given_frames import GivenFrames

OUTPUT_TYPES = ("np", "pil", "ms", "latent")
SOLVERS = ("dpmpp_2m",)  # that every scheduler has, beside its own


@dataclass(frozen=True)
class Request:
    """A call with the model's defaults filled in. Clip i has prompt i // num_videos_per_prompt and seed + i.

    Attributes:
        given: the given frames of every clip, or None.
        noise_strength: of the noise on the given frames, 0 to 1.
        tile: spatial tiles of the autoencoder, in both directions; None: whole frames.
        prepared: noise, encoded prompts or a generator that the caller has; None: seed and texts.
        solver: one of SOLVERS; None: the scheduler's own.
    """

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    size: tuple[int, int, int]  # frames, height, width
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float
    num_videos_per_prompt: int
    seed: int
    output_type: str
    tile: Tiling | None = None
    given: GivenFrames | None = None
    noise_strength: float = 0.0
    prepared: Prepared | None = None
    solver: str | None = None

    @classmethod
    def of(
        cls,
        index: ModelIndex,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_videos_per_prompt: int = 1,
        seed: int = 0,
        output_type: str = "np",
        tile: int | None = None,
        prepared: Prepared | None = None,
        solver: str | None = None,
    ) -> Request:
        """A request whose arguments that are None come from the model's index.

        Args:
            prompt: None if `prepared` has encoded prompts.
            tile: side in pixels of the autoencoder's tiles, see `mindsora.models.tiling`; None: whole frames.

        Raises:
            InputError: an empty prompt, a prompt both as text and encoded, or a value out of range.
        """

        def default(value, name):
            return getattr(index, name) if value is None else value

        if prepared and prepared.embeds:
            _check_no_texts(prompt, negative_prompt)
            prompt = ("",) * prepared.prompts
        if prompt is None:
            raise InputError(
                "prompt = None: must be a text or a list of texts; or give prompt_embeds and prompt_attention_mask"
            )
        prompts = _texts("prompt", prompt)
        negatives = _texts("negative_prompt", negative_prompt or "")
        if isinstance(negative_prompt or "", str):
            negatives *= len(prompts)
        size = (default(num_frames, "num_frames"), default(height, "height"), default(width, "width"))
        index.shapes.check(*size)
        steps = default(num_inference_steps, "num_inference_steps")
        if solver is not None and solver not in SOLVERS:
            raise InputError(
                f"solver = {shown(solver)}: must be {' or '.join(SOLVERS)}, or None for the scheduler's own"
            )
        index.check_steps(steps, solver)
        return cls(
            prompts=prompts,
            negatives=negatives,
            size=(int(size[0]), int(size[1]), int(size[2])),
            num_inference_steps=int(steps),
            guidance_scale=_number("guidance_scale", default(guidance_scale, "guidance_scale")),
            guidance_rescale=_number("guidance_rescale", default(guidance_rescale, "guidance_rescale")),
            num_videos_per_prompt=_whole("num_videos_per_prompt", num_videos_per_prompt, 1),
            seed=_whole("seed", seed, 0),
            output_type=output_type,
            tile=None if tile is None else Tiling(tile),
            prepared=prepared,
            solver=solver,
        )._checked(index)

    def showing(self, index: ModelIndex, given: GivenFrames | None, noise_strength: float = 0.0) -> Request:
        """This request with given frames.

        Raises:
            InputError: a model that takes text alone, frames of a clip of another size, noise on no frames, or a noise
                strength out of range.
        """
        from mindsora.data.frame_masks import sampling_noise_level

        sampling_noise_level(noise_strength, 0.0)  # raises if out of range
        shown = given is not None and len(given.times) > 0
        if shown:
            index.check_takes_frames("frames are given")
        if shown and given.size != self.size:
            raise InputError(f"the given frames are of a clip of {given.size}, the request is for {self.size}")
        if noise_strength and self.prepared and self.prepared.generator is not None:
            raise InputError(
                f"noise_strength = {noise_strength} draws from the seed: give seed, or a whole number as generator"
            )
        if noise_strength and not shown:
            raise InputError(f"noise_strength = {noise_strength}: it is noise on given frames, and none are given")
        return replace(self, given=given if shown else None, noise_strength=noise_strength)

    @property
    def shown(self) -> tuple:
        """All that decides the encoding of the given frames: requests with the same value share the encoding."""
        return self.size, self.given, self.tile, self.noise_strength, self.seed if self.noise_strength else None

    @property
    def text(self) -> tuple:
        """All that decides the encoding of this one clip's text, as `shown` for the frames."""
        encoded = self.prepared if self.prepared and self.prepared.embeds else None
        return self.prompts[0], self.negatives[0], self.guided, encoded

    @property
    def guided(self) -> bool:
        """Whether the denoiser also runs on the negative prompt."""
        return self.guidance_scale > 1

    @property
    def num_frames(self) -> int:
        """Frames of each clip."""
        return self.size[0]

    @property
    def clips(self) -> int:
        return len(self.prompts) * self.num_videos_per_prompt

    def clip(self, i: int) -> Request:
        """Clip i by itself."""
        p = i // self.num_videos_per_prompt
        return replace(
            self,
            prompts=(self.prompts[p],),
            negatives=(self.negatives[p],),
            num_videos_per_prompt=1,
            seed=self.seed + i,
            prepared=self.prepared and self.prepared.clip(i, p),
        )

    def _checked(self, index: ModelIndex) -> Request:
        if not self.prompts:
            raise InputError("no prompt: give at least one")
        embeds = self.prepared.embeds if self.prepared else {}
        if embeds and self.guided and NEGATIVE[0] not in embeds:
            raise InputError(
                f"guidance_scale = {self.guidance_scale:g} needs {NEGATIVE[0]} and {NEGATIVE[1]} beside prompt_embeds: "
                "pipe.encode_prompt(...).arguments() gives all; guidance_scale=1 needs none"
            )
        for i, prompt in enumerate(() if embeds else self.prompts):
            where = f"prompt {i + 1} of {len(self.prompts)}" if len(self.prompts) > 1 else "the prompt"
            if not prompt.strip():
                raise InputError(f"{where} is empty: say what the video shows")
            if template_for(index.template).cleaned:
                _check_cleaned(where, prompt)
        if len(self.negatives) != len(self.prompts):
            raise InputError(
                f"{len(self.negatives)} negative prompts for {len(self.prompts)} prompts: give one for all or one each"
            )
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            nearest = 0 if self.guidance_scale < 0 else index.guidance_scale
            raise InputError(
                f"guidance_scale = {self.guidance_scale}: must be a finite number, 0 or more; up to 1 "
                f"means no guidance; nearest legal: {nearest:g}"
            )
        if not 0 <= self.guidance_rescale <= 1:
            nearest = int(self.guidance_rescale > 1)
            raise InputError(f"guidance_rescale = {self.guidance_rescale}: must be 0 to 1; nearest legal: {nearest}")
        if self.num_videos_per_prompt < 1:
            raise InputError(f"num_videos_per_prompt = {self.num_videos_per_prompt}: must be at least 1")
        if not 0 <= self.seed <= 2**32 - self.clips:
            raise InputError(
                f"seed = {self.seed}: must be from 0 to {2**32 - self.clips} (clip i takes seed + i, below 2**32)"
            )
        if self.output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type = {shown(self.output_type)}: must be one of {', '.join(OUTPUT_TYPES)}")
        return self


def _texts(name: str, value: object) -> tuple[str, ...]:
    """One text or a list of them; InputError for anything else."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} = {shown(repr(value), quote=False)}: must be a text or a list of texts")
    for text in texts:
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{name} {shown(text)} holds half of a surrogate pair, which is no character")
    return tuple(texts)


def _check_no_texts(prompt: object, negative_prompt: object) -> None:
    """InputError: a text beside encoded prompts."""
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if text is not None:
            raise InputError(f"{name} and prompt_embeds are both given: give the text or the encoded prompt")


def _number(name: str, value: object) -> float:
    """A real number as Python's float; InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} = {shown(repr(value), quote=False)}: must be a number, such as 4.5")
    return float(value)


def _whole(name: str, value: Any, least: int) -> int:
    """A whole number of any integral type as Python's int; InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        finite = isinstance(value, Real) and math.isfinite(value)
        nearest = f"; nearest legal: {max(round(value), least)}" if finite else ""
        raise InputError(f"{name} = {shown(repr(value), quote=False)}: must be a whole number{nearest}")
    return int(value)


def _check_cleaned(where: str, prompt: str) -> None:
    """InputError for a prompt of which cleaning leaves nothing; a warning for one that loses words."""
    cleaned = clean_prompt(prompt)
    if not any(map(str.isalnum, cleaned)):
        raise InputError(
            f"{where}, {shown(prompt)}, has no words left after cleaning (links, file names, codes and Chinese "
            "characters are taken out, as in training): say in English what the video shows"
        )
    if lost := lost_words(prompt, cleaned):
        warnings.warn(
            f"{where} loses {shown(' '.join(lost))} to the cleaner that the model was trained with; "
            f"the model reads {shown(cleaned)}",
            stacklevel=4,
        )
