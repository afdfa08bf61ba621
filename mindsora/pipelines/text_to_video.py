"""Text to video as Open-Sora Plan v1.5 does it: encode the prompt, denoise latents, decode them.

Shapes in the margin: B clips, T frames of H x W pixels, t x h x w latents of c channels, L text tokens.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from tqdm import tqdm

from mindsora import runtime, zoo
from mindsora.errors import InputError
from mindsora.pipelines.components import load_components
from mindsora.pipelines.request import Request
from mindsora.schedulers import euler, guide
from mindsora.text.templates import template_for

class TextToVideoOutput(NamedTuple):
    """What a pipeline call returns. Like diffusers' output it unpacks, `(frames,) = pipe(...)`, and indexes."""

    frames: np.ndarray  # (B, T, H, W, 3) float32 in [0, 1], or latents (B, c, t, h, w)


class Conditioning(NamedTuple):
    """A prompt as the denoiser takes it. Rows: [negative, positive] with guidance, else the positive one alone."""

    encoder_hidden_states: Tensor  # (rows, 1, L, caption_channels)
    attention_mask: Tensor  # (rows, 1, L), 1 for tokens
    pooled_projections: Tensor  # (rows, 1, pooled_projection_dim)


class TextToVideoPipeline:
    """Text encoders, denoiser, autoencoder and scheduler of one model; make it with `from_pretrained`.

    Attributes:
        index: the model's defaults, see `mindsora.zoo.ModelIndex`.
        transformer, vae, text_encoder, text_encoder_2: the Cells.
        tokenizer, tokenizer_2, scheduler: their companions.
    """

    def __init__(self, index: zoo.ModelIndex, components: dict, jit: str = "O0"):
        if jit not in ("O0", "O1", "off"):
            raise InputError(f"jit {jit!r} must be O0, O1 or off")
        self.index, self.jit = index, jit
        self.transformer, self.vae = components["transformer"], components["vae"]
        self.text_encoder, self.text_encoder_2 = components["text_encoder"], components["text_encoder_2"]
        self.tokenizer, self.tokenizer_2 = components["tokenizer"], components["tokenizer_2"]
        self.scheduler = components["scheduler"]
        self._progress = {}
        self._compiled = set()
        self._guided = self._compile(_guided_velocity(self.transformer))
        self._unguided = self._compile(_velocity(self.transformer))

    @classmethod
    def from_pretrained(cls, name_or_dir, dtype: str | dict[str, str] | None = None, jit: str = "O0"):
        """Load a model.

        Args:
            name_or_dir: a model in the box ("nano") or a model folder (see `mindsora.zoo`).
            dtype: "float32", "float16" or "bfloat16" (or fp32, fp16, bf16) for all components, or a dict per component
                (transformer, vae, text_encoder, text_encoder_2). Default: float32 on CPU; on Ascend bfloat16 and a
                float32 VAE.
            jit: "O0" or "O1" compiles the denoiser, "off" runs it in PyNative.

        Raises:
            InputError: no such model, a file that is missing or corrupt or does not fit, or bfloat16 on CPU.
        """
        folder = zoo.find(name_or_dir)
        index = zoo.ModelIndex.read(folder)
        return cls(index, load_components(folder, index, dtype), jit)

    def set_progress_bar_config(self, **config) -> None:
        """Arguments for tqdm; `disable=True` silences the progress bar and the compile line."""
        self._progress = config

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_videos_per_prompt: int = 1,
        seed: int = 0,
        output_type: str = "np",
        callback_on_step_end: Callable | None = None,
    ) -> TextToVideoOutput:
        """Generate clips. What is None takes the model's default.

        Clip i (prompt-major) starts from the noise of seed + i and runs by itself, so it is byte for byte the clip
        that a call with this prompt alone and seed + i gives, and the number of clips compiles nothing new.

        Args:
            prompt: one or several.
            negative_prompt: what to steer away from, added to the template's own words; one for all, or one a prompt.
            num_frames, height, width: see `index.shapes`.
            num_inference_steps: 1 to 1000.
            guidance_scale: above 1 runs the denoiser on the negative prompt too and moves away from it.
            guidance_rescale: share of the guided result brought back to the unguided spread, 0 to 1.
            seed: 0 to 2**32 - 1.
            output_type: "np" gives float32 frames in [0, 1]; "latent" gives latents, not decoded.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": x}); may return {"latents": x}.

        Returns:
            TextToVideoOutput with frames (B, T, H, W, 3).

        Raises:
            InputError: an empty prompt or a value out of range, before any work is done.
        """
        request = Request.of(
            self.index, prompt, negative_prompt, num_frames, height, width, num_inference_steps, guidance_scale,
            guidance_rescale, num_videos_per_prompt, seed, output_type,
        )  # fmt: skip
        sampling = request.num_inference_steps, request.guidance_scale, request.guidance_rescale
        results = []
        for i in range(request.clips):
            p, again = divmod(i, num_videos_per_prompt)
            if not again:
                conditioning = self.encode_prompt(request.prompts[p], request.negatives[p], request.guidance_scale > 1)
            latents = self.prepare_latents(*request.size, seed=seed + i)
            title = f"clip {i + 1} of {request.clips}" if request.clips > 1 else None
            latents = self.denoise(latents, conditioning, *sampling, callback_on_step_end, title)
            results.append(latents.astype(ms.float32).asnumpy() if output_type == "latent" else self.decode(latents))
        return TextToVideoOutput(np.concatenate(results))

    def encode_prompt(self, prompt: str, negative_prompt: str = "", guided: bool = True) -> Conditioning:
        """One prompt, with the model's template around it, through both text encoders.

        A prompt over an encoder's limit is cut, with a warning that shows what was lost.
        """
        positive, negative = template_for(self.index.template).apply(prompt, negative_prompt)
        self._warn_if_cut(positive, "prompt", (self.tokenizer, self.tokenizer_2))
        if negative_prompt:  # CLIP's 77 tokens do not even hold v1.5's own negative words: only T5's limit counts
            self._warn_if_cut(negative, "negative prompt", (self.tokenizer,))
        texts = [negative, positive] if guided else [positive]
        ids, mask = map(Tensor, self.tokenizer(texts))                           # (rows, L)
        states = self.text_encoder(ids, mask)                                    # (rows, L, D)
        ids_2, _ = self.tokenizer_2(texts)
        pooled = self.text_encoder_2(Tensor(ids_2)).text_embeds                  # (rows, P); CLIP gets no mask
        return Conditioning(states.expand_dims(1), mask.expand_dims(1), pooled.expand_dims(1))

    def _warn_if_cut(self, text: str, what: str, tokenizers) -> None:
        for tokenizer in tokenizers:
            if cut := tokenizer.truncated(text):
                warnings.warn(
                    f"{what} is over the {tokenizer.max_length} tokens of {type(tokenizer).__name__}; cut off: {cut!r}",
                    stacklevel=4,
                )

    def prepare_latents(self, num_frames: int, height: int, width: int, seed: int = 0) -> Tensor:
        """Unit noise of one clip, (1, c, t, h, w): float32 from RandomState(seed), then the denoiser's dtype."""
        self.index.shapes.check(num_frames, height, width)
        shape = (1, self.transformer.config.in_channels, *self.index.shapes.latent(num_frames, height, width))
        noise = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
        return Tensor(noise).astype(self._dtype)

    @property
    def _dtype(self):
        return self.transformer.proj_out.weight.dtype

    def denoise(
        self,
        latents: Tensor,
        conditioning: Conditioning,
        num_inference_steps: int,
        guidance_scale: float,
        guidance_rescale: float = 0.0,
        callback_on_step_end: Callable | None = None,
        title: str | None = None,
    ) -> Tensor:
        """Integrate one clip's latents (1, c, t, h, w) from noise to data."""
        sigmas = self.scheduler.sigmas(num_inference_steps, latents.shape[-2:])
        text = (conditioning.encoder_hidden_states, conditioning.pooled_projections, conditioning.attention_mask)
        guided = guidance_scale > 1
        rows = 2 if guided else 1
        if text[0].shape[0] != rows:
            raise InputError(f"guidance_scale = {guidance_scale} needs a conditioning of {rows} rows, not {text[0].shape[0]}")
        # As Tensors, because another number would compile another graph.
        guidance = (Tensor(guidance_scale, ms.float32), Tensor(guidance_rescale, ms.float32)) if guided else ()
        function = self._guided if guided else self._unguided

        def velocity(x: Tensor, sigma: float) -> Tensor:
            time = Tensor(np.full(rows, 1000 * np.float32(sigma), np.float32))
            return function(x, time, *text, *guidance)

        def after_step(step: int, sigma: float, x: Tensor) -> Tensor:
            bar.update()
            if callback_on_step_end is not None:
                x = (callback_on_step_end(self, step, 1000 * sigma, {"latents": x}) or {}).get("latents", x)
            return x

        if self.jit != "off":
            self._compile_for(velocity, latents, guided)
        with self._bar(num_inference_steps, title) as bar:
            return euler(velocity, latents, sigmas, after_step)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, c, t, h, w) to frames (B, T, H, W, 3), float32 in [0, 1], clip by clip."""
        clips, dtype = [], next(self.vae.get_parameters()).dtype
        for i in range(latents.shape[0]):
            z = self.vae.denormalise_latents(latents[i : i + 1].astype(ms.float32))
            video = self.vae.decode(z.astype(dtype), chunked=True)                             # (1, 3, T, H, W) in [-1, 1]
            clips.append((video.astype(ms.float32).asnumpy()[0] / 2 + 0.5).clip(0, 1).transpose(1, 2, 3, 0))
        return np.stack(clips)

    def _compile(self, function: Callable) -> Callable:
        return function if self.jit == "off" else ms.jit(function, jit_level=self.jit)

    def _compile_for(self, velocity: Callable, latents: Tensor, guided: bool) -> None:
        """Call the denoiser once before the first clip of a size, so that compiling has a line of its own."""
        key = (latents.shape, guided)
        if key in self._compiled:
            return
        start = time.perf_counter()
        velocity(latents, 1.0).asnumpy()
        self._compiled.add(key)
        if not self._silent:
            size = " x ".join(map(str, latents.shape[2:]))
            tqdm.write(f"compiled the denoiser for {size} latents in {time.perf_counter() - start:.1f} s", file=None)

    @property
    def _silent(self) -> bool:
        return bool(self._progress.get("disable")) or runtime.rank() > 0

    def _bar(self, steps: int, title: str | None) -> tqdm:
        return tqdm(total=steps, desc=title, **{**self._progress, "disable": self._silent})


def _velocity(transformer):
    def velocity(x, timestep, text, pooled, mask):
        return transformer(x, timestep, text, pooled, None, mask)

    return velocity


def _guided_velocity(transformer):
    def velocity(x, timestep, text, pooled, mask, scale, rescale):
        both = transformer(ops.concat((x, x)), timestep, text, pooled, None, mask)  # [negative, positive]
        negative, positive = ops.chunk(both, 2)
        return guide(negative, positive, scale, rescale)

    return velocity
