"""Text to video as Open-Sora Plan v1.5 does it: encode the prompt, denoise latents, decode them.

Shapes in the margin: B clips, T frames of H x W pixels, t x h x w latents of c channels, L text tokens.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from tqdm import tqdm

from mindsora import runtime, zoo
from mindsora.errors import InputError
from mindsora.kernels.choice import OPERATORS, choose, symbol
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
        seconds: of the last call, by phase: encode_prompt, denoise, decode; and of these, compile. `sample` and
            `decode_chunks` add to it. On Ascend a phase ends when its work is queued; `decode` waits for all of it.
    """

    def __init__(self, index: zoo.ModelIndex, components: dict, jit: str = "O0"):
        self.index, self.jit = index, jit
        self.transformer, self.vae = components["transformer"], components["vae"]
        self.text_encoder, self.text_encoder_2 = components["text_encoder"], components["text_encoder_2"]
        self.tokenizer, self.tokenizer_2 = components["tokenizer"], components["tokenizer_2"]
        self.scheduler = components["scheduler"]
        self.seconds: dict[str, float] = {}
        self._progress = {}
        self._compiled = set()
        self._encode = self._graph(_Encode(self.text_encoder, self.text_encoder_2))
        self._guided = self._graph(_GuidedVelocity(self.transformer))
        self._unguided = self._graph(_Velocity(self.transformer))
        self._decode = self._graph(_Decode(self.vae))

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | os.PathLike, dtype: str | dict[str, str] | None = None, jit: str = "O0"
    ) -> "TextToVideoPipeline":
        """Load a model.

        Args:
            name_or_dir: a model in the box ("nano") or a model folder (see `mindsora.zoo`).
            dtype: "float32", "float16" or "bfloat16" (or fp32, fp16, bf16) for all components, or a dict per component
                (transformer, vae, text_encoder, text_encoder_2). Default: float32 on CPU; on Ascend bfloat16 and a
                float32 VAE.
            jit: "O0" or "O1" compiles the Cells (the first call at a size), "off" runs them in PyNative.

        Raises:
            InputError: no such model, a file that is missing or corrupt or does not fit, or bfloat16 on CPU.
        """
        runtime.check_jit(jit)
        folder = zoo.find(name_or_dir)
        index = zoo.ModelIndex.read(folder)
        return cls(index, load_components(folder, index, dtype), jit)

    def set_progress_bar_config(self, **config) -> None:
        """Arguments for tqdm; `disable=True` silences the progress bar and the compile line."""
        self._progress = config

    def __call__(
        self,
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
        self.seconds = {}
        results = []
        for latents in self.sample([request.clip(i) for i in range(request.clips)], callback_on_step_end):
            results.append(latents.astype(ms.float32).asnumpy() if output_type == "latent" else self.decode(latents))
        return TextToVideoOutput(np.concatenate(results))

    def sample(self, requests: Sequence[Request], callback_on_step_end: Callable | None = None) -> Iterator[Tensor]:
        """The latents (1, c, t, h, w) of each request for one clip, in turn.

        Requests with one text that follow one another share its encoding. Memory does not grow with their number.
        """
        encoded = None
        for i, request in enumerate(requests):
            text = request.prompts[0], request.negatives[0], request.guidance_scale > 1
            if text != encoded:
                with self._phase("encode_prompt"):
                    conditioning = self.encode_prompt(*text)
                encoded = text
            with self._phase("denoise"):
                latents = self.denoise(
                    self.prepare_latents(*request.size, seed=request.seed), conditioning, request.num_inference_steps,
                    request.guidance_scale, request.guidance_rescale, callback_on_step_end,
                    f"clip {i + 1} of {len(requests)}" if len(requests) > 1 else None,
                )  # fmt: skip
            yield latents

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
        ids_2 = Tensor(self.tokenizer_2(texts)[0])                               # CLIP gets no mask
        states, pooled = self._timed("the text encoders", ids.shape, self._encode, ids, mask, ids_2)
        return Conditioning(states.expand_dims(1), mask.expand_dims(1), pooled.expand_dims(1))

    def _warn_if_cut(self, text: str, what: str, tokenizers) -> None:
        for tokenizer in tokenizers:
            if cut := tokenizer.truncated(text):
                warnings.warn(
                    f"{what} is over the {tokenizer.max_length} tokens of {type(tokenizer).__name__}; cut off: {cut!r}",
                    stacklevel=5,
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
            raise InputError(f"guidance_scale = {guidance_scale}: needs {rows} rows of text, not {text[0].shape[0]}")
        guidance = (Tensor(guidance_scale, ms.float32), Tensor(guidance_rescale, ms.float32)) if guided else ()
        function = self._guided if guided else self._unguided

        def velocity(x: Tensor, sigma: float) -> Tensor:
            timestep = Tensor(np.full(rows, 1000 * np.float32(sigma), np.float32))
            return function(x, timestep, *text, *guidance)

        def after_step(step: int, sigma: float, x: Tensor) -> Tensor:
            bar.update()
            if callback_on_step_end is not None:
                x = (callback_on_step_end(self, step, 1000 * sigma, {"latents": x}) or {}).get("latents", x)
            return x

        if self._is_new("the denoiser", (latents.shape, rows)):  # an extra call, so that the bar shows true speed
            self._timed("the denoiser", (latents.shape, rows), velocity, latents, 1.0)
        with self._bar(num_inference_steps, title) as bar:
            return euler(velocity, latents, sigmas, after_step)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, c, t, h, w) to frames (B, T, H, W, 3), float32 in [0, 1]; clip by clip."""
        clips = [latents[i : i + 1] for i in range(latents.shape[0])]
        return np.stack([np.concatenate(list(self.decode_chunks(clip))) for clip in clips])

    def decode_chunks(self, latents: Tensor) -> Iterator[np.ndarray]:
        """One clip's latents (1, c, t, h, w) to its frames, piece after piece: (n, H, W, 3), float32 in [0, 1].

        Memory does not grow with the clip's length. A clip of up to four latent frames is one piece and one graph, a
        longer one takes two graphs, whatever its length (see `mindsora.shapes.chunks`).
        """
        pieces = self._pieces(latents)
        while True:
            with self._phase("decode"):  # not what the caller does in between
                frames = next(pieces, None)
            if frames is None:
                return
            yield frames

    def _pieces(self, latents: Tensor) -> Iterator[np.ndarray]:
        dtype = next(self.vae.get_parameters()).dtype
        z = self.vae.denormalise_latents(latents.astype(ms.float32)).astype(dtype)
        for video in self.vae.decode_chunks(z, step=self._decode_chunk):          # (1, 3, n, H, W) in [-1, 1]
            yield (video.astype(ms.float32).asnumpy()[0] / 2 + 0.5).clip(0, 1).transpose(1, 2, 3, 0)

    def _decode_chunk(self, z: Tensor, *state):
        # Mutable: the Tensors of a plain tuple would be constants, and every chunk a new graph.
        return self._timed("the decoder", (z.shape, len(state)), self._decode, z, *map(ms.mutable, state))

    def graphs(self, requests: Sequence[Request]) -> dict:
        """What decides, beside the stack, which graphs `sample` and `decode_chunks` compile, and in which order."""
        cells = self.transformer, self.vae, self.text_encoder, self.text_encoder_2
        return {
            "index": repr(self.index),
            "configs": [repr(cell.config) for cell in cells],
            "requests": list(dict.fromkeys((*request.size, request.guidance_scale > 1) for request in requests)),
            "libraries": [symbol(name, "") for name in OPERATORS if choose(name) == "cpu"],  # graphs hold their paths
        }

    def _graph(self, cell: nn.Cell) -> Callable:
        return cell if self.jit == "off" else ms.jit(cell, jit_level=self.jit)

    def _is_new(self, what: str, key) -> bool:
        return self.jit != "off" and (what, key) not in self._compiled

    def _timed(self, what: str, key, function: Callable, *arguments):
        """Call; the first call of a graph at a size, which compiles it, gets a line of its own."""
        if not self._is_new(what, key):
            return function(*arguments)
        start = time.perf_counter()
        result = function(*arguments)
        self._compiled.add((what, key))
        seconds = time.perf_counter() - start                                    # with its first run
        self._add("compile", seconds)
        if not self._silent:
            tqdm.write(f"compiled {what} in {seconds:.1f} s", file=sys.stderr)
        return result

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - start)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def _silent(self) -> bool:
        return bool(self._progress.get("disable")) or runtime.rank() > 0

    def _bar(self, steps: int, title: str | None) -> tqdm:
        return tqdm(total=steps, desc=title, **{**self._progress, "disable": self._silent})


# The graphs. Cells, because MindSpore 2.10 loses the parameters of a plain function's graph when it reads that from the
# compile cache; without prefix, because the parameters' names belong to the models. Their inputs are Tensors alone:
# another Python number would compile another graph.


class _Encode(nn.Cell):
    def __init__(self, text_encoder: nn.Cell, text_encoder_2: nn.Cell):
        super().__init__(auto_prefix=False)
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2

    def construct(self, ids, mask, ids_2):
        return self.text_encoder(ids, mask), self.text_encoder_2(ids_2)[0]


class _Velocity(nn.Cell):
    def __init__(self, transformer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, x, timestep, text, pooled, mask):
        return self.transformer(x, timestep, text, pooled, None, mask)


class _GuidedVelocity(_Velocity):
    def construct(self, x, timestep, text, pooled, mask, scale, rescale):
        both = self.transformer(ops.concat((x, x)), timestep, text, pooled, None, mask)
        negative, positive = ops.chunk(both, 2)
        return guide(negative, positive, scale, rescale)


class _Decode(nn.Cell):
    def __init__(self, vae: nn.Cell):
        super().__init__(auto_prefix=False)
        self.vae = vae

    def construct(self, z, state=None):
        return self.vae.decode_chunk(z, state)
