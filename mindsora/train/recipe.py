"""Recipes: YAML files with everything that a training run depends on, and their dataclasses."""

import difflib
import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mindsora.data.frame_masks import check_tasks
from mindsora.data.settings import VideoData
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.train.inherit import inherited

_FLOAT32_MAX = 3.4e38
EMA_SCHEDULES = ("v1_5", "v1_3", "constant")
CLIPS = ("adaptive", "batch_drop", "norm")
PRECISIONS = ("float32", "float16", "bfloat16")
LINES = {"FlowMatchScheduler": "v1.5", "VPredictionScheduler": "v1.3"}  # a denoiser's scheduler -> its line
_UNPINNED = (
    "optimizer",
    "run",
    "sampling",
    "layout",
    "parallel",
    "cache",
    "validation",
)  # may change when a run goes on


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, its learning rate over the run, clipping, and the moving average of the weights.

    Attributes:
        lr: the highest learning rate, after a linear rise over `warmup` steps.
        lr_after: number of a step -> learning rate from that step on, in place of `lr`.
        decay_from: share of the run after which the learning rate falls linearly to 0; 1 keeps it constant.
        eps: added in float32; upstream uses 1e-15.
        accumulate: batches whose mean gradient makes one update.
        ema, ema_schedule: largest decay of the moving average and how it rises to it: `v1_5` as (1 + n) / (10 + n) in
            update n, `v1_3` likewise and one update later, `constant` not at all. Training with a discriminator is
            always `constant`.
        clip: what a large gradient norm does: `adaptive` (v1.5) scales it back, `batch_drop` (v1.3) leaves the batch out,
            `norm` scales every norm above `clip_norm` back. NaN and infinite updates are skipped in each case.
        clip_decay: of the mean and variance that `adaptive` and `batch_drop` follow; null turns `adaptive` off.
        clip_escape: `adaptive` starts anew after so many steps scaled back in a row; 0: never.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-15
    weight_decay: float = 1e-4
    warmup: int = 0
    lr_after: dict[int, float] = field(default_factory=dict)
    decay_from: float = 1.0
    accumulate: int = 1
    ema: float = 0.9999
    ema_schedule: str = "v1_5"
    clip: str = "adaptive"
    clip_decay: float | None = 0.99
    clip_norm: float = 1.0
    clip_escape: int = 0

    def __post_init__(self):
        _require_finite(self, "optimizer")
        _require(self.lr > 0, "optimizer.lr", self.lr, "must be positive")
        for step, lr in self.lr_after.items():
            _require(lr > 0, f"optimizer.lr_after.{step}", lr, "must be positive")
        _require(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "must lie in [0, 1)")
        _require(self.eps > 0, "optimizer.eps", self.eps, "must be positive")
        _require(
            self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "must not be negative; 0 for none"
        )
        _require(self.warmup >= 0, "optimizer.warmup", self.warmup, "must not be negative; 0 for none")
        _require(0 <= self.decay_from <= 1, "optimizer.decay_from", self.decay_from, "must lie in [0, 1]")
        _require(0 <= self.ema < 1, "optimizer.ema", self.ema, "must lie in [0, 1)")
        _require(self.accumulate >= 1, "optimizer.accumulate", self.accumulate, "must be at least 1")
        for name, known in (("ema_schedule", EMA_SCHEDULES), ("clip", CLIPS)):
            value = getattr(self, name)
            _require(value in known, f"optimizer.{name}", value, f"must be one of {', '.join(known)}")
        decay = self.clip_decay
        _require(decay is None or 0 < decay < 1, "optimizer.clip_decay", decay, "must lie in (0, 1), or be null")
        drops = self.clip == "batch_drop"
        _require(
            not drops or decay is not None, "optimizer.clip_decay", decay, "must be a number for clip = batch_drop"
        )
        _require(self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "must be positive")
        _require(self.clip_escape >= 0, "optimizer.clip_escape", self.clip_escape, "must not be negative; 0 for never")

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        decay_start = self.decay_from * steps
        decay = (steps - step) / (steps - decay_start) if step >= decay_start and decay_start < steps else 1.0
        lr = self.lr_after[max(passed)] if (passed := [first for first in self.lr_after if first <= step]) else self.lr
        return lr * min(1.0, (step + 1) / max(self.warmup, 1)) * decay


@dataclass(frozen=True)
class RunConfig:
    """Length, seed and folders of a run.

    Attributes:
        out: folder of states and log; training resumes a run that it finds there.
        export: folder for the trained model at the end, in the layout that the pipeline reads.
        init: folder with the layout of `export` whose weights a new run starts from; null for random weights.
        new_parameters: attributes of the denoiser whose parameters `init` may lack; they keep their initial values.
        validate_every, sample_every: steps between validations and sample clips; 0 for none.
        keep, keep_every: the newest states stay, and those of every multiple of so many steps; 0 for none of these.
        precision: dtype of weights and activations: float32, float16 or bfloat16. Updates, moments, averages and sums
            over gradients are float32 in each case.
        recompute: the backward pass computes the activations of the first so many blocks again; 0 keeps all.
        recompute_feed_forward: the same for the feed-forward layers alone.
        tensorboard: write the log for TensorBoard too, to `out`/tensorboard.
    """

    steps: int
    out: str
    export: str
    init: str | None = None
    new_parameters: tuple[str, ...] = ()
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    validate_every: int = 0
    sample_every: int = 0
    keep: int = 2
    keep_every: int = 0
    precision: str = "float32"
    recompute: int = 0
    recompute_feed_forward: int = 0
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("steps", "log_every", "save_every", "keep"):
            _require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "must be at least 1")
        for name in ("validate_every", "sample_every", "keep_every", "recompute", "recompute_feed_forward"):
            _require(getattr(self, name) >= 0, f"run.{name}", getattr(self, name), "must not be negative; 0 for none")
        known = f"must be one of {', '.join(PRECISIONS)}"
        _require(self.precision in PRECISIONS, "run.precision", self.precision, known)
        both = self.recompute and self.recompute_feed_forward
        rule = "excludes run.recompute, which covers the feed-forward layers too: set one of them"
        _require(not both, "run.recompute_feed_forward", self.recompute_feed_forward, rule)
        _require(self.seed >= 0, "run.seed", self.seed, "must not be negative")
        for name in ("out", "export"):
            _require(getattr(self, name) != "", f"run.{name}", "''", "must name a folder")


@dataclass(frozen=True)
class ParallelConfig:
    """The processes that msrun starts for a training. Each takes `data.batch` samples of its own.

    Attributes:
        dp: number of processes.
        zero: what they share out: 0, nothing; 1, the optimizer's moments, float32 weights and averages; 2, the sums of
            the gradients of `optimizer.accumulate` batches too; 3, the weights of linear layers too.
    """

    dp: int = 1
    zero: int = 1

    def __post_init__(self):
        _require(self.dp >= 1, "parallel.dp", self.dp, "must be at least 1")
        _require(self.zero in (0, 1, 2, 3), "parallel.zero", self.zero, "must be 0, 1, 2 or 3")


def check_parallel(parallel: ParallelConfig, optimizer: OptimizerConfig) -> None:
    """Raise InputError where a rank would need the gradients that it gave away."""
    wrong = optimizer.clip == "batch_drop" and parallel.zero >= 2
    rule = "optimizer.clip = batch_drop measures whole gradients before they are reduced; use 1"
    _require(not wrong, "parallel.zero", parallel.zero, rule)


@dataclass(frozen=True)
class VAELossConfig:
    """Weights of the terms. Every term is a mean over elements; upstream's weights belong to sums."""

    l1: float = 1.0
    mse: float = 0.0
    kl: float = 1e-6
    wavelet: float = 0.1

    def __post_init__(self):
        _require_finite(self, "loss")
        for term in fields(self):
            _require(
                getattr(self, term.name) >= 0, f"loss.{term.name}", getattr(self, term.name), "must not be negative"
            )


@dataclass(frozen=True)
class VAEData:
    """Clips, from which training draws random windows.

    Attributes:
        clips: number of different clips, drawn without replacement in every epoch.
        frames, size: of the whole clip, in frames and pixels.
        crop_frames, crop_size: of the window.
        batch: clips per step.
        folder: of real videos and pictures to draw clips from; null for drawn shapes alone.
        real: share of clips from the folder; the others are drawn shapes.
    """

    clips: int
    batch: int
    frames: int = 17
    size: int = 64
    crop_frames: int = 17
    crop_size: int = 64
    folder: str | None = None
    real: float = 0.75

    def __post_init__(self):
        _require(0 <= self.real <= 1, "data.real", self.real, "must lie in [0, 1]")
        _require(self.clips >= self.batch >= 1, "data.batch", self.batch, f"must lie in 1..data.clips ({self.clips})")
        _require(
            1 <= self.crop_frames <= self.frames,
            "data.crop_frames",
            self.crop_frames,
            f"must lie in 1..data.frames ({self.frames})",
        )
        _require(
            1 <= self.crop_size <= self.size,
            "data.crop_size",
            self.crop_size,
            f"must lie in 1..data.size ({self.size})",
        )


@dataclass(frozen=True)
class AdversarialLossConfig:
    """Weights of the terms of `mindsora.train.methods.adversarial`, which are upstream's sums.

    Attributes:
        adversarial: half of the adaptive weight in upstream's stages.
        lpips_backbone: torchvision's VGG16 file; null switches the LPIPS term off, and the run says so.
    """

    l1: float = 1.0
    mse: float = 0.0
    lpips: float = 1.0
    kl: float = 1e-6
    wavelet: float = 0.1
    adversarial: float = 0.5
    lpips_backbone: str | None = None

    def __post_init__(self):
        for term in fields(self):
            if term.name != "lpips_backbone":
                value = getattr(self, term.name)
                _require(0 <= value < _FLOAT32_MAX, f"loss.{term.name}", value, "must not be negative, and be finite")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator and what its optimizer has of its own; it shares the rest with the autoencoder's.

    Attributes:
        channels: of the first convolution; the widest has 8 times as many.
        clip_norm: its gradients are scaled down to this norm.
    """

    channels: int = 64
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self):
        _require(self.channels >= 1, "discriminator.channels", self.channels, "must be at least 1")
        _require(
            0 <= self.weight_decay < _FLOAT32_MAX,
            "discriminator.weight_decay",
            self.weight_decay,
            "must not be negative",
        )
        _require(0 < self.clip_norm < _FLOAT32_MAX, "discriminator.clip_norm", self.clip_norm, "must be positive")


@dataclass(frozen=True)
class VAERecipe:
    """Train a WF-VAE. `model` holds upstream's config.json keys.

    `log_variance_bias`: initial bias of the log-variance. -7 keeps the posterior's noise from swamping a latent that
    carries no information yet (the layer's default is 0).
    """

    task: str
    model: dict[str, Any]
    data: VAEData
    optimizer: OptimizerConfig
    run: RunConfig
    loss: VAELossConfig = field(default_factory=VAELossConfig)
    log_variance_bias: float = 0.0
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self):
        check_parallel(self.parallel, self.optimizer)
        _require(math.isfinite(self.log_variance_bias), "log_variance_bias", self.log_variance_bias, "must be finite")
        _require_plain(self.run)


@dataclass(frozen=True)
class AdversarialRecipe:
    """Train a WF-VAE on real videos, with a discriminator and LPIPS.

    Attributes:
        model: upstream's config.json keys.
        validation: merge file of clips to measure PSNR on every `run.validate_every` steps; null for none.
    """

    task: str
    model: dict[str, Any]
    data: VideoData
    optimizer: OptimizerConfig
    run: RunConfig
    loss: AdversarialLossConfig = field(default_factory=AdversarialLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    validation: str | None = None

    def __post_init__(self):
        _require_plain(self.run)
        optimizer = self.optimizer
        _require(
            optimizer.accumulate == 1, "optimizer.accumulate", optimizer.accumulate, "two networks take turns; use 1"
        )
        _require(optimizer.clip == "adaptive", "optimizer.clip", optimizer.clip, "the autoencoder's rule is adaptive")

    @property
    def line(self) -> str:
        """The line of models whose rules the data follow: v1.3, whose reports describe this training."""
        return "v1.3"


@dataclass(frozen=True)
class DenoiserData:
    """Clips with captions, encoded once.

    Attributes:
        clips: number of different clips, drawn without replacement in every epoch.
        batch: clips per step.
        frames, size: of a clip, in frames and pixels.
        max_text_lengths: tokens per caption, padded, for T5 and CLIP.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
    """

    clips: int
    batch: int
    frames: int = 17
    size: int = 64
    max_text_lengths: tuple[int, int] = (32, 32)
    caption_dropout: float = 0.1

    def __post_init__(self):
        _require(self.clips >= self.batch >= 1, "data.batch", self.batch, f"must lie in 1..data.clips ({self.clips})")
        _require(0 <= self.caption_dropout <= 1, "data.caption_dropout", self.caption_dropout, "must lie in [0, 1]")


@dataclass(frozen=True)
class InpaintData(DenoiserData):
    """DenoiserData plus several versions of every clip with frames hidden, which are also encoded once.

    Attributes:
        max_text_lengths: tokens per caption, padded, for mT5 alone.
        tasks: task of `mindsora.data.frame_masks.TASKS` -> weight of its draws; weights need not sum to 1.
        draws: versions of a clip, each with its own task, given frames and noise on the given frames.
    """

    max_text_lengths: tuple[int] = (32,)
    tasks: dict[str, float] = field(kw_only=True)  # no default: OmegaConf would merge it with the recipe's tasks
    draws: int = 3

    def __post_init__(self):
        super().__post_init__()
        _require(self.draws >= 1, "data.draws", self.draws, "must be at least 1")
        _require(len(self.tasks) > 0, "data.tasks", dict(self.tasks), "must name at least one task")
        check_tasks(self.tasks)


@dataclass(frozen=True)
class SamplingConfig:
    """The exported pipeline's defaults."""

    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    guidance_rescale: float = 0.0

    def __post_init__(self):
        _require_finite(self, "sampling")
        steps = self.num_inference_steps
        _require(steps >= 1, "sampling.num_inference_steps", steps, "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LatentRecipe:
    """Train a denoiser together with its text encoders on the latents of a trained WF-VAE.

    The model sections hold upstream's config.json keys; they may omit widths that follow from another part
    (vocabularies, latent channels, text widths). `run.export` is a model folder that already holds `vae/` and the
    tokenisers; training adds the rest.
    """

    task: str
    transformer: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    optimizer: OptimizerConfig
    run: RunConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self):
        check_parallel(self.parallel, self.optimizer)


@dataclass(frozen=True, kw_only=True)
class DenoiserRecipe(LatentRecipe):
    """SUV, T5 and CLIP (v1.5): flow matching."""

    text_encoder_2: dict[str, Any]
    data: DenoiserData


@dataclass(frozen=True, kw_only=True)
class InpaintRecipe(LatentRecipe):
    """OpenSoraInpaint and mT5 (v1.3): v-prediction, with the latents of clips with hidden frames as an extra input."""

    data: InpaintData


@dataclass(frozen=True)
class Layout:
    """How the published run was spread over cards. `mindsora plan --train` counts with it; a run on one card does not.

    Attributes:
        batch: clips per step over all cards.
        tensor_parallel: cards that share the layers of a model, and the tokens between them.
        zero: what the other cards share: 1, the optimizer's state; 2, gradients too.
    """

    cards: int
    batch: int
    tensor_parallel: int = 1
    zero: int = 1

    def __post_init__(self):
        for name in ("cards", "batch", "tensor_parallel"):
            _require(getattr(self, name) >= 1, f"layout.{name}", getattr(self, name), "must be at least 1")
        groups = self.tensor_parallel
        _require(
            self.cards % groups == 0, "layout.cards", self.cards, f"must be a multiple of {groups} (tensor_parallel)"
        )
        _require(self.zero in (1, 2), "layout.zero", self.zero, "must be 1 or 2")

    @property
    def data_ranks(self) -> int:
        """Groups of cards that take different clips."""
        return self.cards // self.tensor_parallel


@dataclass(frozen=True)
class FrameMasks:
    """Which frames an inpainting model is given, drawn for every clip of every step.

    Attributes:
        tasks: task of `mindsora.data.frame_masks.TASKS` -> weight of its draws; weights need not sum to 1.
        min_clear, max_clear: bounds on the share of given frames in "continuation" and "random_temporal".
    """

    tasks: dict[str, float]
    min_clear: float = 0.0
    max_clear: float = 1.0

    def __post_init__(self):
        _require(len(self.tasks) > 0, "masks.tasks", dict(self.tasks), "must name at least one task")
        check_tasks(self.tasks)
        bounds = self.min_clear, self.max_clear
        _require(0 <= bounds[0] <= bounds[1] <= 1, "masks.min_clear, max_clear", bounds, "must rise within 0 to 1")


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """Train a denoiser on real videos and pictures, behind frozen encoders: a stage of a published model.

    Attributes:
        model: class of the denoiser; its scheduler decides the objective.
        transformer: upstream's config.json keys; widths that follow from the encoders may be left out.
        encoders: a model folder or a model in the box. The training takes its autoencoder, text encoders and tokenisers;
            the exported model takes these and the sampling settings.
        scheduler: keys of the scheduler with which to train.
        cache: folder that `mindsora data cache` fills with the encoders' features; null to encode in every step.
        masks: of a denoiser that takes frames.
        validation: merge file of clips on which the loss is measured at fixed noise levels; null for none.
    """

    task: str
    model: str
    transformer: dict[str, Any]
    encoders: str
    scheduler: dict[str, Any]
    data: VideoData
    optimizer: OptimizerConfig
    run: RunConfig
    layout: Layout
    masks: FrameMasks | None = None
    cache: str | None = None
    validation: str | None = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self):
        check_parallel(self.parallel, self.optimizer)
        denoisers = [one.name for one in registry.specs("transformer") if one.companions["scheduler"][0] in LINES]
        _require(self.model in denoisers, "model", shown(self.model), f"must be one of {', '.join(denoisers)}")
        takes_frames = registry.spec(self.model).takes_frames
        rule = f"{self.model} takes {'frames: give' if takes_frames else 'text alone: leave out'} masks.tasks"
        _require(takes_frames == (self.masks is not None), "masks", self.masks and "given", rule)

    @property
    def line(self) -> str:
        """The line of models whose rules the data follow."""
        return LINES[registry.spec(self.model).companions["scheduler"][0]]


RECIPES = {
    "vae": VAERecipe,
    "denoiser": DenoiserRecipe,
    "inpaint": InpaintRecipe,
    "adversarial_vae": AdversarialRecipe,
    "stage": StageRecipe,
}


def load_recipe(
    path: str | os.PathLike, overrides: list[str] = (), overlay: str | os.PathLike | None = None
) -> VAERecipe | AdversarialRecipe | LatentRecipe | StageRecipe:
    """Read a recipe and the recipes that it begins from.

    Args:
        overrides: `section.key=value`, the last to apply.
        overlay: a YAML file with values that replace the recipe's.

    Raises:
        InputError: no such file, an unknown key (the message names the nearest known one), a missing or a wrong value.
    """
    if wrong := [text for text in overrides if "=" not in text]:
        raise InputError(f"override {shown(wrong[0])}: write section.key=value")
    try:
        config = OmegaConf.merge(
            inherited(path), inherited(overlay) if overlay else {}, OmegaConf.from_dotlist(list(overrides))
        )
        task = OmegaConf.to_container(config, resolve=False).get("task")
        if not isinstance(task, str) or task not in RECIPES:
            raise InputError(
                f"{shown(path)}: task {shown(task, quote=isinstance(task, str))}: choose from {', '.join(RECIPES)}"
            )
        _check_keys(config, RECIPES[task])
        _refuse_interpolation(OmegaConf.to_container(config, resolve=False))
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RECIPES[task]), config))
    except InputError:
        raise
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        reason = shown(str(error.msg or error).splitlines()[0], quote=False)
        raise InputError(f"{shown(path)}: {key}{reason}") from error
    except (yaml.YAMLError, RecursionError) as error:  # of the overrides
        raise InputError(f"overrides of {shown(path)}: {shown(' '.join(str(error).split()), quote=False)}") from error


def load_stage(
    path: str | os.PathLike, overrides: list[str] = (), overlay: str | os.PathLike | None = None
) -> StageRecipe:
    """Like `load_recipe`, for a recipe with `task: stage`. InputError: it has another task."""
    recipe = load_recipe(path, overrides, overlay)
    if not isinstance(recipe, StageRecipe):
        raise InputError(f"{shown(path)}: task {recipe.task!r}: must be 'stage', which trains on real files")
    return recipe


def _check_keys(config, cls, where: str = "") -> None:
    known = {f.name: f.type for f in fields(cls)}
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise InputError(f"unknown key {shown(f'{where}{key}', quote=False)}: {hint}")
        section = next(filter(is_dataclass, (known[key], *get_args(known[key]))), None)  # also of `Section | None`
        if section and OmegaConf.is_dict(config[key]):
            _check_keys(config[key], section, f"{where}{key}.")


def _refuse_interpolation(value, key: str = "") -> None:
    """Refuse references: `${oc.env:X}` would read the environment, so a recipe would depend on where it is read."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_interpolation(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and "${" in value:
        raise InputError(f"{shown(key, quote=False)} = {shown(value)}: write the value itself, not a reference")


def written(recipe) -> str:
    """The whole recipe as YAML, with the values of its bases and every default; it loads as the same recipe."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(asdict(recipe))))


def _plain(value):
    """Tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def fingerprint(recipe) -> str:
    """Hash of the settings that a resumed run must share with the first: model, data, loss and seed.

    It leaves out steps and rates, which may change, and the batch, which a state keeps by itself.
    """
    pinned = {key: value for key, value in asdict(recipe).items() if key not in _UNPINNED}
    pinned["data"] = {key: value for key, value in pinned["data"].items() if key != "batch"}
    pinned["seed"] = recipe.run.seed
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:16]


def _require_plain(run: RunConfig) -> None:
    """Require the precision and memory of an autoencoder's training."""
    _require(run.precision == "float32", "run.precision", run.precision, "an autoencoder trains in float32")
    for name in ("recompute", "recompute_feed_forward"):
        _require(getattr(run, name) == 0, f"run.{name}", getattr(run, name), "an autoencoder has no blocks; use 0")


def _require_finite(section, name: str) -> None:
    """Require every number of a section to be finite in float32, the dtype of the step."""
    for key, value in asdict(section).items():
        value = list(value.values()) if isinstance(value, dict) else value
        for number in value if isinstance(value, (tuple, list)) else (value,):
            finite = number is None or isinstance(number, str) or abs(number) < _FLOAT32_MAX
            _require(finite, f"{name}.{key}", number, f"must be finite, and below {_FLOAT32_MAX:.1e}")


def _require(holds: bool, name: str, value, rule: str) -> None:
    if not holds:
        raise InputError(f"{name} = {shown(value, quote=False)}: {rule}")
