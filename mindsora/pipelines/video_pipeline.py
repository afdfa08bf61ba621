"""The steps of every Open-Sora Plan pipeline: encode the prompt, denoise latents, decode them.

Shapes in the margin: B clips, T frames of H x W pixels, t x h x w latents of c channels, r frames each; L text tokens.
"""

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from inspect import Parameter, signature
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image
from tqdm import tqdm

from mindsora import runtime, zoo
from mindsora.errors import InputError, shown
from mindsora.hub import named_on_hub, pull
from mindsora.interrupts import interruptible
from mindsora.kernels import forms
from mindsora.kernels.choice import OPERATORS, choose, symbol
from mindsora.media import to_uint8
from mindsora.models import registry
from mindsora.models.spec import CELLS
from mindsora.parallel.collectives import Gather, Group
from mindsora.parallel.layout import Layout, Mesh, mesh_of, single
from mindsora.pipelines import foreign, saving
from mindsora.pipelines.components import check_component, load_components
from mindsora.pipelines.graphs import Graph
from mindsora.pipelines.lora import set_updates
from mindsora.pipelines.lora_file import LoRAFile
from mindsora.pipelines.prepared import EMBEDS, NEGATIVE, POSITIVE, Prepared, Rng, check_shapes, prepare
from mindsora.pipelines.request import Request
from mindsora.sampling import Step, guide
from mindsora.sampling.solvers import Velocity
from mindsora.shapes import Tiling
from mindsora.text.templates import template_for

# MindSpore's compiler and its settings belong to the process: of two threads inside, one raises or computes other values.
_ONE_AT_A_TIME = threading.RLock()


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_REQUEST = signature(Request.of).parameters.keys() - {"index", "prepared"}  # arguments that a call passes on
_LOADING = {"dtype", "mindspore_dtype", "jit", "offload", "allow_hf32", "parallel", *zoo.COMPONENTS}


class VideoOutput(NamedTuple):
    """The result of a pipeline call. It unpacks like diffusers' output, `(frames,) = pipe(...)`, and indexes.

    frames: by output_type, "np": (B, T, H, W, 3) float32 in [0, 1]; "pil": a list of PIL images for each clip; "ms": a
        Tensor (B, T, 3, H, W) in [0, 1]; "latent": latents (B, c, t, h, w).
    """

    frames: np.ndarray | list[list[Image.Image]] | Tensor


class Conditioning(NamedTuple):
    """The denoiser's conditions. Rows: [negative, positive] with guidance, else [positive]."""

    encoder_hidden_states: Tensor  # (rows, 1, L, caption_channels)
    attention_mask: Tensor  # (rows, 1, L), 1 for tokens
    pooled_projections: Tensor | None  # (rows, 1, pooled_projection_dim); v1.3 has none
    frames: Tensor | None = None  # (1, c + r, t, h, w), given frames; one row for both

    def arguments(self) -> dict[str, Tensor]:
        """The encoded prompt as arguments of a pipeline call: `pipe(**pipe.encode_prompt("a cat").arguments())`."""
        parts = (self.encoder_hidden_states, self.attention_mask, self.pooled_projections)
        rows = {POSITIVE: -1, NEGATIVE: 0} if self.attention_mask.shape[0] == 2 else {POSITIVE: 0}
        return {name: part[row] for names, row in rows.items() for name, part in zip(names, parts) if part is not None}


class VideoPipeline:
    """Text encoders, denoiser, autoencoder and scheduler of one model. `from_pretrained` loads it.

    Attributes:
        index: the model's defaults, see `mindsora.zoo.ModelIndex`.
        transformer, vae, text_encoder, text_encoder_2: the Cells; text_encoder_2 is None for v1.3, and a text encoder
            is None where the pipeline was loaded without it.
        tokenizer, tokenizer_2, scheduler: their companions.
        mesh: the groups of ranks that make a clip together (docs/parallel.md); of one process, each is alone.
        loras: the LoRA files that the denoiser's weights contain, with scales and checksums.
        seconds: of the last call, by phase: encode_prompt, encode_frames, denoise, decode. `compile` is the part of
            them that compiled graphs. `sample` and `decode_chunks` add to it. On Ascend a phase ends when its work is
            queued; `decode` waits for all of it.
    """

    takes_frames = False  # of the models that it runs, see ModelIndex.takes_frames

    def __init__(
        self,
        index: zoo.ModelIndex,
        components: dict,
        jit: str = "O0",
        offload: bool = False,
        source: Path | None = None,
        mesh: Mesh | None = None,
    ):
        self.index, self.jit, self.offload, self.mesh = index, jit, offload, mesh or single()
        self._source = source  # model folder with the denoiser's weights; None where the denoiser came as a Cell
        self.loras: tuple[LoRAFile, ...] = ()
        self._updated: set[str] = set()  # upstream's names of the weights that `loras` change
        self._interrupt = False
        for name in zoo.COMPONENTS:
            setattr(self, name, components.get(name))
        self.seconds: dict[str, float] = {}
        self._progress = {}
        self._tile: int | None = None
        self._make_graphs()

    def _make_graphs(self) -> None:
        whole = "off" if self.offload else self.jit  # with offload, each layer is a graph
        self._encode = Graph(
            TextEncoders(self.text_encoder, self.text_encoder_2), "the text encoders", whole, self._report
        )
        halves = self.mesh.cfg
        guided = _GuidedVelocity(self.transformer) if halves.size == 1 else _SharedGuidance(self.transformer, halves)
        self._guided = Graph(guided, "the denoiser", whole, self._report)
        self._unguided = Graph(_Velocity(self.transformer), "the denoiser", whole, self._report)
        decode = _DecodeTogether if registry.spec_of(self.vae).decodes_together else _Decode
        self._decode = Graph(decode(self.vae), "the decoder", self.jit, self._report)

    def __setattr__(self, name: str, value) -> None:
        """Graphs hold the Cells that they were made of: another Cell gets graphs of its own.

        Raises:
            InputError: a component of another class than the model's.
        """
        if name in zoo.COMPONENTS and hasattr(self, "_decode"):
            check_component(self.index, name, value)
        super().__setattr__(name, value)
        if name == "scheduler":
            self.index = self.index.scheduled(value.config)
        if name in CELLS and hasattr(self, "_decode"):
            self._make_graphs()
            if name == "transformer":
                self._source = None

    def __getattr__(self, name: str):
        """Called for what a pipeline has not: names of diffusers are told what to write instead."""
        advice = f": {foreign.METHODS[name]}" if name in foreign.METHODS else ""
        raise AttributeError(f"{type(self).__name__} has no {name}{advice}")

    def __deepcopy__(self, memo):
        raise InputError("a pipeline cannot be copied, because its graphs own their weights; load it a second time")

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | os.PathLike,
        dtype: str | dict[str, str] | None = None,
        jit: str = "O0",
        offload: bool = False,
        allow_hf32: bool | None = None,
        mindspore_dtype: object = None,
        parallel: "str | Mesh | None" = None,
        **components,
    ) -> "VideoPipeline":
        """Load a model.

        Args:
            name_or_dir: a model in the box ("nano"), one that was pulled ("v1.5"), a model folder (see `mindsora.zoo`), or
                a repository ("LanguageBind/Open-Sora-Plan-v1.3.0"), which is downloaded first as `mindsora pull` does.
            dtype: "float32", "float16" or "bfloat16" (or fp32, fp16, bf16) for all components, or a dict per component
                (transformer, vae, text_encoder, text_encoder_2). Default: float32 on CPU; on Ascend bfloat16 and a
                float32 VAE.
            jit: "O0" or "O1" compiles the Cells (the first call at a size), "off" runs them in PyNative.
            offload: hold one layer of the denoiser and one of each text encoder in memory, and read layer after layer
                from the model's safetensors files at every call: for a model that is larger than memory. The frames
                are the same. diffusers offloads a loaded pipeline (enable_sequential_cpu_offload); here it is an
                argument of loading, because loading the whole model first takes the memory.
            allow_hf32: on Ascend, let float32 convolutions and matrix products be rounded to HF32, for the whole
                process; None: as the program's `Runtime` says, else no (`mindsora.runtime.set_hf32`).
            mindspore_dtype: mindone's name of `dtype`.
            parallel: how the processes that msrun started make a clip together, such as "cfg=2,cp=4": cfg, the halves of
                guidance; cp, the tokens; tp, the widths of the denoiser and of T5. All of them load the pipeline and call
                it alike, and get the same frames. Or the Mesh of such a layout.
            components: parts to use as they are, such as `vae=` or `scheduler=`, in place of the folder's. None for
                text_encoder or text_encoder_2 leaves that encoder out; calls then need `prompt_embeds`.

        Raises:
            InputError: no such model, a model of the other task, a file that is missing, corrupt or of other shapes,
                bfloat16 on CPU, with offload files other than safetensors, or a layout that does not divide the model.
        """
        foreign.refuse(components.keys() - set(zoo.COMPONENTS), foreign.LOADING, "from_pretrained", _LOADING)
        dtype = foreign.one_dtype(dtype, mindspore_dtype)
        runtime.check_jit(jit)
        runtime.set_hf32(allow_hf32)
        folder = cls._folder(name_or_dir)
        index = zoo.ModelIndex.read(folder)
        mesh = mesh_of(Layout.parse(parallel)) if isinstance(parallel, str) else parallel or single()
        if index.takes_frames != cls.takes_frames:
            task = "which can be shown frames" if index.takes_frames else "which takes text alone"
            raise InputError(
                f"model {os.fspath(name_or_dir)!r} is {index.transformer[1]}, {task}: {cls.__name__} does "
                f"not run it; use mindsora.{index.pipeline}"
            )
        source = None if "transformer" in components else folder
        parts = load_components(folder, index, dtype, offload, jit, components, mesh)
        return cls(index, parts, jit, offload, source, mesh)

    @classmethod
    def _folder(cls, name_or_dir: str | os.PathLike) -> Path:
        """The model folder; that of a repository on the hub is downloaded and made, if it is not here."""
        row = None if os.path.isdir(name_or_dir) else named_on_hub(os.fspath(name_or_dir), cls.takes_frames)
        if row is None:
            return zoo.find(name_or_dir)
        if not (zoo.pulled(row) / "model_index.json").is_file():
            asked = pull(row.name)
            tell = partial(print, file=sys.stderr, flush=True)
            tell("\n".join(asked.lines()))
            asked.run(tell)
        return zoo.pulled(row)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the model folder that `from_pretrained` reads, the weights in their present dtype.

        Raises:
            InputError: `folder` holds files or cannot be written, a text encoder was left out, or the pipeline was loaded
                with offload, so that its weights are not in memory.
        """
        saving.save(self, folder)

    @property
    def writes(self) -> bool:
        """Whether this process is the first of those that make a clip together."""
        return self.mesh.clip.rank == 0

    @property
    def components(self) -> dict[str, object]:
        """Component -> Cell, tokeniser or scheduler, as `from_pretrained` takes them."""
        return {name: part for name in zoo.COMPONENTS if (part := getattr(self, name)) is not None}

    def enable_vae_tiling(self, tile: int = 256) -> None:
        """Encode and decode in tiles of this many pixels in calls that name no `tile` (docs/tiling.md)."""
        Tiling(tile)  # raises if it is no side of a tile
        self._tile = tile

    def disable_vae_tiling(self) -> None:
        """Encode and decode whole frames again."""
        self._tile = None

    def load_lora_weights(self, file: str | os.PathLike, scale: float = 1.0) -> None:
        """Add a LoRA to the denoiser's weights: W + scale * alpha / rank * B A, summed in float32 and rounded once.

        A second LoRA adds to the first. Calls take the same time as without; nothing compiles again.

        Args:
            file: a LoRA of this denoiser in the layout of PEFT or diffusers, or the folder that holds it.
            scale: 1 adds the update as trained, 0 none of it.

        Raises:
            InputError: a file that is no LoRA or does not fit the denoiser, or a pipeline that `from_pretrained` did not
                load. The weights are as before.
        """
        self._set_loras((*self.loras, LoRAFile(os.fspath(file), scale).pinned()))

    def unload_lora_weights(self) -> None:
        """Give the denoiser the weights of its files again, bit for bit."""
        self._set_loras(())

    def _set_loras(self, loras: tuple[LoRAFile, ...]) -> None:
        if self.mesh.tp.size > 1:
            raise InputError(f"parallel {self.mesh.layout}: LoRA changes whole weights; use cp or cfg instead of tp")
        if self._source is None:
            raise InputError("LoRA needs the denoiser's files: load the pipeline with from_pretrained")
        folder = self._source / "transformer"
        with _ONE_AT_A_TIME:
            updates = [lora.read(folder, registry.spec_of(self.transformer)) for lora in loras]
            names = set().union(*updates)
            set_updates(self.transformer, folder, updates, names | self._updated)
            self.loras, self._updated = loras, names

    def set_progress_bar_config(self, **config) -> None:
        """Arguments for tqdm; `disable=True` silences the progress bar and the compile line."""
        self._progress = config

    def request(
        self, prompt, *, seed: int = 0, generator=None, latents=None, tile: int | None = None, **options
    ) -> Request:
        """The request of a call, checked. options: EMBEDS, and those of `Request.of`.

        Raises:
            InputError: an argument that does not exist here, or a value that is refused.
        """
        embeds = {name: options.pop(name) for name in EMBEDS if name in options}
        foreign.refuse(options.keys() - _REQUEST, foreign.CALL, type(self).__name__, self._arguments())
        config = self.transformer.config
        pooled = getattr(config, "pooled_projection_dim", None)
        seed, prepared = prepare(seed, generator, latents, embeds, pooled is not None)
        tile = self._tile if tile is None else tile
        request = Request.of(self.index, prompt, seed=seed, tile=tile, prepared=prepared, **options)
        if prepared:
            latents_shape = (config.in_channels, *self.index.shapes.latent(*request.size))
            check_shapes(prepared, request.clips, latents_shape, config.caption_channels, pooled)
        return request

    @classmethod
    def _arguments(cls) -> set[str]:
        """Names of the arguments of a call."""
        own = {name for name, parameter in signature(cls.__call__).parameters.items() if parameter.kind in _NAMED}
        return own - {"self"} | _REQUEST | set(EMBEDS)

    def generate(
        self,
        request: Request,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> VideoOutput | tuple:
        """The clips of a request; see `__call__` of the pipelines. Calls from several threads run one after the other."""
        if other := set(callback_on_step_end_tensor_inputs) - {"latents"}:
            raise InputError(
                f"callback_on_step_end_tensor_inputs has {shown(min(other))}: a callback gets latents alone"
            )
        with _ONE_AT_A_TIME, interruptible():
            self.seconds, self._interrupt = {}, False
            results, latent = [], request.output_type == "latent"
            for latents in self.sample([request.clip(i) for i in range(request.clips)], callback_on_step_end):
                results.append(latents.astype(ms.float32).asnumpy() if latent else self.decode(latents, request.tile))
            frames = converted(np.concatenate(results), request.output_type)
            return VideoOutput(frames) if return_dict else (frames,)

    def sample(self, requests: Sequence[Request], callback_on_step_end: Callable | None = None) -> Iterator[Tensor]:
        """The latents (1, c, t, h, w) of each request for one clip, in turn.

        Neighbouring requests with the same text or the same given frames encode them once. Memory does not grow with
        the number of requests.
        """
        encoded = given = frames = None
        for i, request in enumerate(requests):
            if request.text != encoded:
                with self._phase("encode_prompt"):
                    conditioning = self._condition(request)
                encoded = request.text
            if self.takes_frames and request.shown != given:
                with self._phase("encode_frames"):
                    frames = self.encode_frames(request)
                given = request.shown
            with self._phase("denoise"):
                noise, rng = self._start(request)
                latents = self.denoise(
                    noise, conditioning._replace(frames=frames), rng,
                    request.num_inference_steps, request.guidance_scale, request.guidance_rescale, callback_on_step_end,
                    f"clip {i + 1} of {len(requests)}" if len(requests) > 1 else None, request.solver,
                )  # fmt: skip
            yield latents

    def _start(self, request: Request) -> tuple[Tensor, Rng]:
        """The noise of one clip, and what the steps draw from."""
        given = request.prepared or Prepared()
        rng = np.random.RandomState(request.seed) if given.generator is None else given.generator
        if given.latents is None:
            return self.prepare_latents(*request.size, rng), rng
        if given.generator is None:
            rng.standard_normal(given.latents.shape)  # else a step of v1.3 would draw the seed's first noise again
        return Tensor(given.latents).astype(self._dtype), rng

    def _condition(self, request: Request) -> Conditioning:
        """The text of one clip: encoded by the caller, or here."""
        if not (request.prepared and request.prepared.embeds):
            return self.encode_prompt(request.prompts[0], request.negatives[0], request.guided)
        embeds = request.prepared.embeds
        rows = (NEGATIVE, POSITIVE) if request.guided else (POSITIVE,)
        states, mask, *pooled = (
            Tensor(np.stack([embeds[name] for name in names])) for names in zip(*rows) if names[0] in embeds
        )  # (rows, 1, L, C), (rows, 1, L), (rows, 1, C2)
        return Conditioning(
            states.astype(self._dtype), mask.astype(ms.int32), pooled[0].astype(self._dtype) if pooled else None
        )

    def encode_prompt(self, prompt: str, negative_prompt: str = "", guided: bool = True) -> Conditioning:
        """One prompt, with the model's template around it, through the text encoders.

        A prompt over an encoder's limit is cut, with a warning that shows the lost part.

        Raises:
            InputError: the pipeline was loaded without a text encoder or a tokeniser that the model has.
        """
        for name in self.index.components:
            if getattr(self, name) is None:
                raise InputError(f"this pipeline has no {name}: give prompt_embeds, or load it with its text encoders")
        positive, negative = template_for(self.index.template).apply(prompt, negative_prompt)
        self._warn_if_cut(positive, "prompt", self.tokenizers)
        if negative_prompt:  # v1.5's own negative words are over CLIP's 77 tokens: only T5's limit counts
            self._warn_if_cut(negative, "negative prompt", (self.tokenizer,))
        return self.encode_texts([negative, positive] if guided else [positive])

    def encode_texts(self, texts: list[str]) -> Conditioning:
        """Texts as they are, without a template, through the text encoders: one row each."""
        ids, mask = map(Tensor, self.tokenizer(texts))  # (rows, L)
        inputs = (ids, mask)
        if self.tokenizer_2 is not None:
            inputs += (Tensor(self.tokenizer_2(texts)[0]),)  # CLIP gets no mask
        states, *pooled = self._encode(*inputs)
        return Conditioning(states.expand_dims(1), mask.expand_dims(1), pooled[0].expand_dims(1) if pooled else None)

    @property
    def tokenizers(self) -> tuple:
        """The model's tokenisers, in the order of its text encoders."""
        return (self.tokenizer,) if self.tokenizer_2 is None else (self.tokenizer, self.tokenizer_2)

    def _warn_if_cut(self, text: str, what: str, tokenizers) -> None:
        for tokenizer in tokenizers:
            if cut := tokenizer.truncated(text):
                warnings.warn(
                    f"{what} is over the {tokenizer.max_length} tokens of {type(tokenizer).__name__}; "
                    f"cut off: {shown(cut)}",
                    stacklevel=7,  # the line of the user's call
                )

    def prepare_latents(self, num_frames: int, height: int, width: int, rng: np.random.RandomState) -> Tensor:
        """Unit noise of one clip, (1, c, t, h, w): drawn in float32, then the denoiser's dtype."""
        self.index.shapes.check(num_frames, height, width)
        shape = (1, self.transformer.config.in_channels, *self.index.shapes.latent(num_frames, height, width))
        return Tensor(rng.standard_normal(shape).astype(np.float32)).astype(self._dtype)

    @property
    def _dtype(self):
        return self.transformer.proj_out.weight.dtype

    def denoise(
        self,
        latents: Tensor,
        conditioning: Conditioning,
        rng: np.random.RandomState,
        num_inference_steps: int,
        guidance_scale: float,
        guidance_rescale: float = 0.0,
        callback_on_step_end: Callable | None = None,
        title: str | None = None,
        solver: str | None = None,
    ) -> Tensor:
        """From noise to one clip's latents (1, c, t, h, w).

        Args:
            latents: from `prepare_latents`.
            rng: drew `latents`; every step of v1.3 draws from it too.
            callback_on_step_end: see `TextToVideoPipeline`.
            title: of the progress bar.
            solver: of `mindsora.sampling`; None is the scheduler's own.
        """
        velocity = self.velocity(conditioning, guidance_scale, guidance_rescale)
        scheduler = self.scheduler if solver is None else replace(self.scheduler, solver=solver)
        steps = scheduler.steps(velocity, latents, num_inference_steps, rng)
        for step in self._with_bar(steps, num_inference_steps, title):
            if callback_on_step_end is not None:
                changed = callback_on_step_end(self, step.index, step.timestep, {"latents": step.latents}) or {}
                step.latents = changed.get("latents", step.latents)
            if self._interrupt:  # diffusers' way for a callback to stop: the latents so far are the result
                break
        return step.latents

    def velocity(self, conditioning: Conditioning, guidance_scale: float, guidance_rescale: float = 0.0) -> Velocity:
        """The denoiser with guidance as a function of one clip's latents (1, c, t, h, w) and the timestep.

        Raises:
            InputError: a conditioning with two rows for a guidance scale up to 1, or with one row for a larger one.
        """
        states, mask, pooled, frames = conditioning
        guided = guidance_scale > 1
        rows = 2 if guided else 1
        if states.shape[0] != rows:
            raise InputError(f"guidance_scale = {guidance_scale}: needs {rows} rows of text, not {states.shape[0]}")
        if self.mesh.cfg.size > 1:
            states, mask, pooled = self._own_half(states, mask, pooled)
            rows = 1
        guidance = (Tensor(guidance_scale, ms.float32), Tensor(guidance_rescale, ms.float32)) if guided else ()
        graph = self._guided if guided else self._unguided
        segments = cache(partial(self._segments, mask))

        def velocity(x: Tensor, timestep: float) -> Tensor:
            timesteps = Tensor(np.full(rows, timestep, np.float32))
            return graph(x, frames, timesteps, states, pooled, mask, *guidance, *segments(x.shape))

        return velocity

    def _own_half(self, *parts: Tensor | None) -> list[Tensor | None]:
        """The row of each part that this rank's half of guidance takes: negative first."""
        if any(part is not None and part.shape[0] != 2 for part in parts):
            raise InputError(f"parallel {self.mesh.layout}: cfg splits guidance, and guidance_scale up to 1 has none")
        half = self.mesh.cfg.rank
        return [None if part is None else part[half : half + 1] for part in parts]

    def _segments(self, mask: Tensor, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """What CANN's attention takes from the host, once per generation; mask: (rows, 1, L), shape: of the latents."""
        if not registry.spec_of(self.transformer).joint_text or choose("skiparse_attention") != "ascend_builtin":
            return ()
        return self.transformer.segments(shape, mask.asnumpy().sum((1, 2)).tolist(), mask.shape[2])

    def decode(self, latents: Tensor | np.ndarray, tile: Tiling | None = None) -> np.ndarray:
        """Latents (B, c, t, h, w), a Tensor or an array, to frames (B, T, H, W, 3), float32 in [0, 1]; clip by clip."""
        latents = latents if isinstance(latents, Tensor) else Tensor(np.asarray(latents, np.float32))
        clips = [latents[i : i + 1] for i in range(latents.shape[0])]
        return np.stack([np.concatenate(list(self.decode_chunks(clip, tile))) for clip in clips])

    def decode_chunks(self, latents: Tensor, tile: Tiling | None = None) -> Iterator[np.ndarray]:
        """One clip's latents (1, c, t, h, w) to its frames, piece after piece: (n, H, W, 3), float32 in [0, 1].

        Memory does not grow with the clip's length. A clip of up to four latent frames is one piece and one graph; a
        longer one takes two graphs, whatever its length (see `mindsora.shapes.chunks`). A CausalVAE computes all pieces
        in one graph before it yields the first.

        Args:
            tile: decode in spatial tiles, to nearly the same frames (see mindsora.models.tiling). All tiles have one
                size and share the graphs.
        """
        pieces = self._pieces(latents, tile)
        while True:
            with self._phase("decode"):  # without the caller's own work between pieces
                frames = next(pieces, None)
            if frames is None:
                return
            yield frames

    def first_frame(self, latents: Tensor, tile: Tiling | None = None) -> np.ndarray:
        """The first frame (H, W, 3), float32 in [0, 1], of latents (1, c, t, h, w), noisy or not: a preview of a step.

        It runs in PyNative, so that no graph is compiled for it.
        """
        dtype = next(self.vae.get_parameters()).dtype
        z = self.vae.denormalise_latents(latents[:, :, :1].astype(ms.float32)).astype(dtype)
        video = next(iter(self.vae.decode_chunks(z, tile=tile)))  # (1, 3, 1, H, W) in [-1, 1]
        return (video.astype(ms.float32).asnumpy()[0, :, 0] / 2 + 0.5).clip(0, 1).transpose(1, 2, 0)

    def _pieces(self, latents: Tensor, tile: Tiling | None) -> Iterator[np.ndarray]:
        dtype = next(self.vae.get_parameters()).dtype
        z = self.vae.denormalise_latents(latents.astype(ms.float32)).astype(dtype)
        for video in self.vae.decode_chunks(z, step=self._decode_step, tile=tile):  # (1, 3, n, H, W) in [-1, 1]
            yield (video.astype(ms.float32).asnumpy()[0] / 2 + 0.5).clip(0, 1).transpose(1, 2, 3, 0)

    def _decode_step(self, z: Tensor, *state):
        # Mutable, because the Tensors of a plain tuple are constants, which compile a new graph for every chunk.
        return self._decode(z, *map(ms.mutable, state))

    @property
    def cells(self) -> dict[str, nn.Cell]:
        """Component -> Cell of the model."""
        return {name: getattr(self, name) for name in CELLS if getattr(self, name) is not None}

    def graphs(self, requests: Sequence[Request]) -> dict:
        """All that decides, beside the stack, which graphs `sample` and `decode_chunks` compile and in which order."""
        sizes = [(*asked.size, asked.guidance_scale > 1, asked.tile and asked.tile.size) for asked in requests]
        return {
            "index": repr(self.index),
            "configs": [repr(cell.config) for cell in self.cells.values()],
            "requests": list(dict.fromkeys(sizes)),
            "libraries": [symbol(name, "") for name in OPERATORS if choose(name) == "cpu"],  # graphs hold their paths
        }

    def _report(self, name: str, seconds: float) -> None:
        """A graph has compiled."""
        self._add("compile", seconds)
        if not self._silent:
            tqdm.write(f"compiled {name} in {seconds:.1f} s", file=sys.stderr)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - start)

    @property
    def worked(self) -> float:
        """The sum of `seconds` by phase; `compile` is part of the phases."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "compile")

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def _silent(self) -> bool:
        return bool(self._progress.get("disable")) or runtime.rank() > 0

    def _with_bar(self, steps: Iterator[Step], total: int, title: str | None) -> Iterator[Step]:
        """The same steps, with a progress bar."""
        # Without smoothing, because the first step may compile: the bar's speed is the mean of those after it.
        config = {"mininterval": 0, "smoothing": 0, "desc": title} | self._progress | {"disable": True, "total": total}
        if not self._silent:
            del config["disable"]  # tqdm reads TQDM_DISABLE where it is not given
        with tqdm(**config) as bar:
            for step in steps:
                if step.index == 0:
                    bar.initial = 1
                    bar.unpause()  # the clock starts here
                bar.update()
                yield step


def converted(frames: np.ndarray, output_type: str) -> np.ndarray | list[list[Image.Image]] | Tensor:
    """Frames (B, T, H, W, 3) in [0, 1] as `output_type` says; see VideoOutput. Latents stay as they are."""
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in to_uint8(clip)] for clip in frames]
    return Tensor(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))) if output_type == "ms" else frames


# The graphs. Cells, because MindSpore 2.10 loses the parameters of a plain function's graph when it reads that from the
# compile cache; without prefix, because the parameters' names belong to the models.


class TextEncoders(nn.Cell):
    """Token ids and mask of the first encoder, and ids of the second -> (states,) or (states, pooled)."""

    def __init__(self, text_encoder: nn.Cell, text_encoder_2: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2

    def construct(self, ids, mask, ids_2=None):
        states = self.text_encoder(ids, mask)
        return (states,) if self.text_encoder_2 is None else (states, self.text_encoder_2(ids_2)[0])


class _Velocity(nn.Cell):
    def __init__(self, transformer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.transformer = transformer

    def construct(self, x, frames, timestep, text, pooled, mask, *segments):
        return self.transformer(self.beside(x, frames), timestep, text, pooled, None, mask, *segments)

    def beside(self, x, frames):
        return x if frames is None else ops.concat((x, frames), 1)  # (1, 2c + r, t, h, w)


class _GuidedVelocity(_Velocity):
    def construct(self, x, frames, timestep, text, pooled, mask, scale, rescale, *segments):
        x = self.beside(x, frames)
        both = self.transformer(ops.concat((x, x)), timestep, text, pooled, None, mask, *segments)
        negative, positive = forms.chunk(both, 2, 0)
        return guide(negative, positive, scale, rescale)


class _SharedGuidance(_Velocity):
    """Guidance whose halves two ranks compute."""

    def __init__(self, transformer: nn.Cell, halves: Group):
        super().__init__(transformer)
        self.both = Gather(halves, 0)

    def construct(self, x, frames, timestep, text, pooled, mask, scale, rescale, *segments):
        own = self.transformer(self.beside(x, frames), timestep, text, pooled, None, mask, *segments)
        negative, positive = forms.chunk(self.both(own), 2, 0)
        return guide(negative, positive, scale, rescale)


class _Decode(nn.Cell):
    def __init__(self, vae: nn.Cell):
        super().__init__(auto_prefix=False)
        self.vae = vae

    def construct(self, z, state=None):
        return self.vae.decode_chunk(z, state)


class _DecodeTogether(_Decode):
    def construct(self, *parts):
        return self.vae.decode_parts(*parts)
