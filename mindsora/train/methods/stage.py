"""A stage of a published model: a denoiser on real videos and pictures, behind frozen encoders.

The encoders run before every step, outside its graph, or their features come from a cache. Pictures are clips of one
frame. Each bucket's shape compiles once. Shapes: B clips, T x H x W pixels, c channels of t x h x w latents, r frames each.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

import mindsora
from mindsora.data.clips import ClipSet, open_clips
from mindsora.data.frame_masks import compress, draw_given, draw_task, frame_mask, noise_given, training_noise_level
from mindsora.data.grouped import GroupedOrder
from mindsora.data.loading import generator, load
from mindsora.data.settings import ClipBatch, VideoData
from mindsora.errors import InputError
from mindsora.media import export_to_video
from mindsora.models import registry
from mindsora.parallel.layout import Mesh
from mindsora.sampling import FlowMatchScheduler, VPredictionScheduler
from mindsora.train.data_parallel import step_of
from mindsora.train.encoders import Encoders
from mindsora.train.features import Features, fill, load_moments
from mindsora.train.initial import start_from
from mindsora.train.loop import Batch, Step, Task, mean_losses
from mindsora.train.memory import recompute, train_in
from mindsora.train.methods.captioned_latents import PARTS
from mindsora.train.methods.denoising import FlowMatchingLoss, InpaintingLoss, VPredictionLoss
from mindsora.train.model_folder import stage_exporter, transformer_config
from mindsora.train.objectives import FlowMatching, VPrediction
from mindsora.train.recipe import FrameMasks, StageRecipe
from mindsora.zoo import ModelIndex

VALIDATION_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of validation, as shares of the noisiest
VALIDATION_BATCHES = 4  # at most


def prepare(recipe: StageRecipe, clips: ClipSet, mesh: Mesh) -> Task:
    """Prepare the training of `run.export`, a model folder of the encoders and the trained denoiser."""
    objective, encoders = objective_of(recipe), Encoders(recipe.encoders)
    features = Features(Path(recipe.cache), encoders) if recipe.cache else None
    config = transformer_config(recipe, encoders.configs)
    ms.set_seed(recipe.run.seed)  # of the initial weights
    transformer = train_in(registry.spec(recipe.model).cell.from_upstream(config), recipe.run.precision)
    recompute(transformer, recipe.run.recompute, recipe.run.recompute_feed_forward)
    if recipe.run.init is not None:
        start_from(transformer, Path(recipe.run.init), recipe.run.new_parameters)
    loss = loss_of(recipe, transformer, objective).set_train()
    batches = StageBatches(recipe, clips, encoders, objective, features)
    step = EncodedStep(step_of(loss, recipe.optimizer, PARTS, mesh, recipe.parallel.zero), batches.encoded)
    validate = None
    if recipe.validation is not None:
        data = replace(recipe.data, merge_file=recipe.validation, windows=1, caption_drop=0.0, min_bucket_batches=0)
        held_out = replace(recipe, data=data)
        validate = validation_of(held_out, open_clips(data, recipe.line), encoders, objective, loss)
    export = stage_exporter(recipe, encoders.folder, config)
    return Task(step, lambda: batches, export, validate, sampler(recipe, clips, encoders.folder, config))


def sampler(recipe: StageRecipe, clips: ClipSet, encoders: Path, config: dict) -> Callable[[dict, int], None]:
    """A `Task.sample`: a clip of the averaged weights, from the first clip's caption alone, in `run.out`/samples."""
    folder = Path(recipe.run.out) / "samples"
    export = stage_exporter(replace(recipe, run=replace(recipe.run, export=str(folder / "model"))), encoders, config)

    def sample(weights: dict[str, np.ndarray], done: int) -> None:
        export(weights)
        pipeline = getattr(mindsora, ModelIndex.read(folder / "model").pipeline).from_pretrained(folder / "model")
        frames = pipeline(prompt=clips.clips[0].captions[0], seed=recipe.run.seed).frames[0]
        export_to_video(frames, folder / f"{done:08d}.mp4", fps=recipe.data.fps)

    return sample


def validation_of(
    recipe: StageRecipe, clips: ClipSet, encoders: Encoders, objective: FlowMatching | VPrediction, loss: nn.Cell
) -> Callable[[], Mapping[str, float]]:
    """The mean loss of the first clips at fixed noise levels; they are encoded at the first call and kept."""

    @cache
    def measure() -> Callable[[], Mapping[str, float]]:
        groups = {}
        for level in VALIDATION_LEVELS:
            batches = StageBatches(recipe, clips, encoders, objective, level=level)
            numbers = range(min(VALIDATION_BATCHES, batches.order.steps_per_epoch))
            encoded = (batches.encoded(*map(Tensor, arrays)) for _, arrays in batches(numbers))
            groups[f"level_{level}"] = [tuple(one.asnumpy() for one in batch) for batch in encoded]
        return mean_losses(loss, groups)

    return lambda: measure()()


def fill_cache(recipe: StageRecipe, part: int = 0, parts: int = 1) -> dict[str, int]:
    """Encode what the recipe's cache lacks. Returns counts; see `mindsora.train.features.fill`.

    Hidden frames are drawn anew in every step, so an inpainting stage caches its texts alone.
    """
    clips, encoders = open_clips(recipe.data, recipe.line), Encoders(recipe.encoders)
    return fill(Path(recipe.cache), clips, encoders, recipe.masks is None, part, parts)


def objective_of(recipe: StageRecipe) -> FlowMatching | VPrediction:
    """Noise levels and target of the recipe's scheduler."""
    if recipe.line == "v1.5":
        return FlowMatching(FlowMatchScheduler.from_upstream(recipe.scheduler))
    return VPrediction(VPredictionScheduler.from_upstream(recipe.scheduler))


def loss_of(recipe: StageRecipe, transformer: nn.Cell, objective: FlowMatching | VPrediction) -> nn.Cell:
    """The loss of a batch of latents, for the recipe's denoiser."""
    if isinstance(objective, FlowMatching):
        return FlowMatchingLoss(transformer, objective)
    return (InpaintingLoss if recipe.masks else VPredictionLoss)(transformer, objective)


class EncodedStep:
    """A step whose batches pass the encoders first. See `mindsora.train.loop.Step`."""

    def __init__(self, step: Step, encode: Callable[..., tuple[Tensor, ...]]):
        self.step, self.encode = step, encode
        self.metrics, self.accumulate = step.metrics, step.accumulate
        self.get_parameters, self.averages = step.get_parameters, step.averages

    def compiled(self) -> Callable[[int, Tensor, Sequence[tuple[Tensor, ...]]], Tensor]:
        update = self.step.compiled()
        return lambda number, lr, batches: update(number, lr, [self.encode(*batch) for batch in batches])


class StageBatches:
    """Batches of a stage by number, each a function of the number and the seed.

    Args:
        features: a cache of texts and, unless frames are hidden anew in every step, of clips; None encodes everything.
        level: noise of every clip, as a share of the noisiest; None draws it.
    """

    def __init__(
        self,
        recipe: StageRecipe,
        clips: ClipSet,
        encoders: Encoders,
        objective: FlowMatching | VPrediction,
        features: Features | None = None,
        level: float | None = None,
    ):
        self.level = level
        self.data, self.masks, self.seed = recipe.data, recipe.masks, recipe.run.seed
        self.clips, self.encoders, self.objective, self.features = clips, encoders, objective, features
        self.has_moments = features is not None and self.masks is None
        if self.has_moments and not self.data.grouped:
            raise InputError(
                "data.grouped = False: a cache has clips of their own size; use grouped batches, or no cache"
            )
        self.order = GroupedOrder(clips.buckets, self.data.batch, seed=self.seed)

    def __call__(self, numbers: range) -> Iterator[tuple[int, Batch]]:
        """(number, arrays of `encoded`) for a range of numbers."""
        batches = (
            load_moments(self.features, self.clips, self.order, numbers, self.seed)
            if self.has_moments
            else load(self.clips, self.order, numbers, self.data.workers, self.seed)
        )
        return ((number, self._arrays(number, batch)) for number, batch in batches)

    def _arrays(self, number: int, batch: ClipBatch) -> Batch:
        rng = np.random.default_rng((self.seed, number))
        size, channels = len(batch.video), self.encoders.configs["vae"].latent_dim
        if self.has_moments:
            clips, latents = batch.video, batch.video.shape[2:]
        else:
            clips, latents = _pixels(batch.video), self._latents(batch.video)
        posterior, noise = rng.standard_normal((2, size, channels, *latents), np.float32)
        arrays = clips, posterior, noise, self._levels(rng, size, latents[1:])
        text = self.encoders.tokens if self.features is None else self.features.texts
        arrays += text(batch.captions)
        if self.masks is not None:
            arrays += masked_clips(batch.video, self.masks, self.data, rng, (self.seed, number))
        if not self.data.grouped:
            arrays += (np.ones((size, *latents), np.float32) if batch.mask is None else batch.mask,)
        return arrays

    def _latents(self, video: np.ndarray) -> tuple[int, int, int]:
        (_, frames, height, width, _), (st, sh, sw) = video.shape, self.data.stride
        return (frames - 1) // st + 1, height // sh, width // sw

    def _levels(self, rng, size: int, latent_size: tuple[int, int]) -> np.ndarray:
        if self.level is not None:
            level = self.level if isinstance(self.objective, FlowMatching) else round(999 * self.level)
            return np.full(size, level, np.float32)
        draw = self.objective.draw(rng, size)
        if isinstance(self.objective, FlowMatching):
            return self.objective.sigmas(draw, latent_size)
        return self.objective.timesteps(draw)

    def encoded(
        self, clips: Tensor, posterior: Tensor, noise: Tensor, level: Tensor, *conditions: Tensor
    ) -> tuple[Tensor, ...]:
        """The arrays of the loss.

        Args:
            clips: pixels (B, 3, T, H, W), or their moments (B, 2c, t, h, w) from a cache.
            posterior, noise: (B, c, t, h, w), of the autoencoder and of the diffusion.
            level: (B,).
            conditions: tokens, or encoded texts from a cache; with hidden frames their pixels (B, 3, T, H, W) and masks
                (B, r, t, h, w); with padding its mask (B, t, h, w).
        """
        count = 3 if "text_encoder_2" in self.encoders.configs else 2
        text, rest = conditions[:count], conditions[count:]
        if self.features is None:
            states, *pooled = self.encoders.texts(*text)
            text = (states, text[1], *pooled)
        if self.masks is not None:
            hidden = self.encoders.mode(self.encoders.moments(rest[0]))
            rest = (ops.concat((hidden, rest[1]), 1), *rest[2:])
        moments = clips if self.has_moments else self.encoders.moments(clips)
        return (self.encoders.sample(moments, posterior), noise, level, *(one.expand_dims(1) for one in text), *rest)


def masked_clips(
    video: np.ndarray, masks: FrameMasks, data: VideoData, rng: np.random.Generator, key: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Hide the frames that the drawn task of each clip does not give, and add noise to the others.

    Args:
        video: (B, T, H, W, 3) in [-1, 1].
        rng: of the noise.
        key: (seed, number of the batch), of the tasks and the given frames.

    Returns:
        pixels (B, 3, T, H, W), -1 in hidden frames, and the mask at the latents' resolution (B, r, t, h, w).
    """
    size, frames = video.shape[:2]
    mask = np.stack([_drawn(frames, masks, generator(*key, place, "frames")) for place in range(size)])  # (B, T)
    level = training_noise_level(rng.standard_normal(size), rng.random(size))
    places = mask[:, None, :, None, None]  # (B, 1, T, 1, 1)
    pixels = np.where(places < 0.5, _pixels(video), np.float32(-1))
    pixels = noise_given(pixels, places, level, rng.standard_normal(pixels.shape, np.float32))
    st, sh, sw = data.stride
    small = compress(np.broadcast_to(places, (size, 1, frames, 2, 2)), (st, 2, 2))  # the same at every place
    whole = (*small.shape[:3], video.shape[2] // sh, video.shape[3] // sw)
    return pixels, np.ascontiguousarray(np.broadcast_to(small, whole))


def _drawn(frames: int, masks: FrameMasks, rng: random.Random) -> np.ndarray:
    given = draw_given(draw_task(masks.tasks, frames, rng), frames, rng, masks.min_clear, masks.max_clear)
    return frame_mask(given, frames)


def _pixels(video: np.ndarray) -> np.ndarray:
    """(B, T, H, W, 3) -> (B, 3, T, H, W)."""
    return np.ascontiguousarray(video.transpose(0, 4, 1, 2, 3))
