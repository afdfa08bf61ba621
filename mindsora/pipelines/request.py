"""What a text-to-video call asks for, checked before anything loads. (No MindSpore here.)"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mindsora.errors import InputError
from mindsora.shapes import check_steps
from mindsora.text.cleaning import clean_prompt
from mindsora.text.templates import template_for
from mindsora.zoo import ModelIndex

OUTPUT_TYPES = ("np", "latent")


@dataclass(frozen=True)
class Request:
    """A call with the model's defaults filled in. Clip i has prompt i // num_videos_per_prompt and seed + i."""

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    size: tuple[int, int, int]  # frames, height, width
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float
    num_videos_per_prompt: int
    seed: int
    output_type: str

    @classmethod
    def of(
        cls,
        index: ModelIndex,
        prompt: str | Sequence[str],
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
    ) -> "Request":
        """Fill in what is None from the model's index.

        Raises:
            InputError: an empty prompt, or a value out of range.
        """
        def default(value, name):
            return getattr(index, name) if value is None else value

        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        negative_prompt = negative_prompt or ""
        one = isinstance(negative_prompt, str)
        return cls(
            prompts=prompts,
            negatives=(negative_prompt,) * len(prompts) if one else tuple(negative_prompt),
            size=(default(num_frames, "num_frames"), default(height, "height"), default(width, "width")),
            num_inference_steps=default(num_inference_steps, "num_inference_steps"),
            guidance_scale=default(guidance_scale, "guidance_scale"),
            guidance_rescale=default(guidance_rescale, "guidance_rescale"),
            num_videos_per_prompt=num_videos_per_prompt,
            seed=seed,
            output_type=output_type,
        )._checked(index)

    @property
    def clips(self) -> int:
        return len(self.prompts) * self.num_videos_per_prompt

    def clip(self, i: int) -> "Request":
        """Clip i by itself."""
        p = i // self.num_videos_per_prompt
        return replace(self, prompts=(self.prompts[p],), negatives=(self.negatives[p],), num_videos_per_prompt=1,
                       seed=self.seed + i)

    def _checked(self, index: ModelIndex) -> "Request":
        index.shapes.check(*self.size)
        check_steps(self.num_inference_steps)
        if not self.prompts:
            raise InputError("no prompt: give at least one")
        for i, prompt in enumerate(self.prompts):
            where = f"prompt {i + 1} of {len(self.prompts)}" if len(self.prompts) > 1 else "the prompt"
            if not prompt.strip():
                raise InputError(f"{where} is empty: say what the video shows")
            if template_for(index.template).cleaned and not any(map(str.isalnum, clean_prompt(prompt))):
                raise InputError(
                    f"{where}, {prompt!r}, has no words left after cleaning (links, file names, codes and Chinese "
                    "characters are taken out, as in training): say in English what the video shows"
                )
        if len(self.negatives) != len(self.prompts):
            raise InputError(
                f"{len(self.negatives)} negative prompts for {len(self.prompts)} prompts: give one for all or one each"
            )
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise InputError(f"guidance_scale = {self.guidance_scale}: must be 0 or more; up to 1 means no guidance")
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
            raise InputError(f"output_type = {self.output_type!r}: must be one of {', '.join(OUTPUT_TYPES)}")
        return self
