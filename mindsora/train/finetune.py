"""Adapt a model to a folder of clips: low-rank updates of its denoiser by default, or all of the denoiser's weights."""

import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from tqdm import tqdm

import mindsora
from mindsora import ckpt_convert, zoo
from mindsora.ckpt_convert.dtypes import NUMPY
from mindsora.ckpt_convert.lora import FILE, write_lora
from mindsora.data.clips import ClipSet, open_clips
from mindsora.data.scan import scan
from mindsora.data.settings import VideoData
from mindsora.errors import InputError, shown
from mindsora.files import write_json
from mindsora.jobs.planning import read_prompts
from mindsora.models import registry
from mindsora.train import loop
from mindsora.train.checkpoint import Identity
from mindsora.train.lora import add_lora, matrices
from mindsora.train.methods.captioned_latents import PARTS
from mindsora.train.methods.denoising import FlowMatchingLoss, InpaintingLoss, VPredictionLoss
from mindsora.train.methods.few_clips import Encoded, batches, encode_clip, encode_frames
from mindsora.train.objectives import FlowMatching, VPrediction
from mindsora.train.optimizer import TrainStep
from mindsora.train.recipe import OptimizerConfig, RunConfig

TRAINING, MODEL = "training", "model"  # folders of the output: state and log; the model of a full fine-tuning
DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
TOKENS = 4096  # visual tokens in a batch, at most, unless a batch is asked for
WINDOWS = 4  # parts of a clip that is longer than what the model is trained on


@dataclass(frozen=True)
class FineTuning:
    """What `finetune` is asked for. None is a default that follows from the model.

    Attributes:
        model: name or folder.
        data: folder of videos with captions beside them, see `mindsora.data.scan`.
        output: folder for the result.
        keep: file with one prompt a line of what the model must not forget. The model draws each once before it is
            trained, and is trained on these clips too (prior preservation, Ruiz et al. 2022).
        full: train all weights of the denoiser, instead of low-rank updates.
        rank, alpha, targets: of the updates; see `mindsora.train.lora.add_lora`. None: alpha is the rank.
        steps, batch: length of the training, clips per step.
        lr: highest learning rate. None: 0.2 / (width of the denoiser), a tenth of it for all weights.
        num_frames, height, width: of the clips that it is trained on. None: the model's defaults.
    """

    model: str
    data: str
    output: str
    keep: str | None = None
    full: bool = False
    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    steps: int = 300
    batch: int | None = None
    lr: float | None = None
    seed: int = 0
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self):
        for name in ("alpha", "lr", "batch"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                raise InputError(f"{name} = {value}: must be above 0, or left out")


def finetune(asked: FineTuning) -> Path:
    """Train, or resume the training in the output's folder. Returns the LoRA file or the new model folder.

    Raises:
        InputError: a model or a folder that cannot be used, no clip with a caption that is large and long enough, a wrong
            target or rank, or whatever `mindsora.train.loop.train` refuses.
    """
    folder, output = zoo.find(asked.model), Path(asked.output)
    index = zoo.ModelIndex.read(folder)
    line = {"FlowMatchScheduler": "v1.5", "VPredictionScheduler": "v1.3"}.get(index.scheduler[1])
    if line is None:
        raise InputError(
            f"model {shown(asked.model)} has {index.scheduler[1]}; models of v1.5 and v1.3 are fine-tuned here"
        )
    run, keep = _run(asked), read_prompts(asked.keep) if asked.keep else []
    clips = _clips(asked, index, line)
    # A graph for each encoder compiles longer than a few clips take without one; drawing clips needs the denoiser's.
    pipe = getattr(mindsora, index.pipeline).from_pretrained(folder, jit="O0" if keep else "off")
    objective = (FlowMatching if line == "v1.5" else VPrediction)(pipe.scheduler)
    transformer, trained = pipe.transformer, {}
    ms.set_seed(asked.seed)  # of A
    if not asked.full:
        trained = add_lora(transformer, asked.rank, asked.alpha or asked.rank, asked.targets)
    optimizer = _optimizer(asked, transformer)
    batch = asked.batch or _batch(index, clips)
    encoded = _encode(pipe, clips, keep)
    del pipe  # autoencoder and text encoders are not needed any more
    gc.collect()
    loss = _loss(transformer, objective).set_train()
    arrays = batches(encoded, _levels(objective), asked.seed, batch, DROPOUT)

    def export(weights: dict[str, np.ndarray]) -> None:
        if asked.full:
            _write_model(folder, output / MODEL, transformer, weights)
        else:
            write_lora(output / FILE, matrices(trained, weights), asked.rank, asked.alpha or asked.rank)

    task = loop.Task(TrainStep(loss, optimizer, PARTS), lambda: loop.numbered(arrays), export)
    identity = Identity(_fingerprint(asked, clips, batch, keep), batch, seed=asked.seed, epoch=len(encoded.mean))
    loop.train(task, optimizer, run, identity)
    return output / (MODEL if asked.full else FILE)


def _run(asked: FineTuning) -> RunConfig:
    return RunConfig(
        steps=asked.steps,
        out=str(Path(asked.output) / TRAINING),
        export=asked.output,
        seed=asked.seed,
        save_every=max(50, asked.steps // 4),
    )


def _optimizer(asked: FineTuning, transformer: nn.Cell) -> OptimizerConfig:
    lr = asked.lr if asked.lr is not None else (0.02 if asked.full else 0.2) / transformer.config.dim
    # The average forgets within some 50 steps, because a fine-tuning has hundreds, not hundreds of thousands.
    return OptimizerConfig(lr=lr, warmup=10, decay_from=0.3, weight_decay=0.0, ema=0.98)


def _clips(asked: FineTuning, index: zoo.ModelIndex, line: str) -> ClipSet:
    """The clips of the folder at the size that is asked for."""
    frames, height, width = (
        getattr(index, name) if getattr(asked, name) is None else getattr(asked, name)
        for name in ("num_frames", "height", "width")
    )
    index.shapes.check(frames, height, width)
    found = scan(asked.data, Path(asked.output) / TRAINING)
    for message in found.skipped:
        print(f"skipped: {message}", flush=True)
    data = VideoData(
        merge_file=str(found.merge_file),
        frames=frames,
        size=(height, width),
        frame_stride=index.vae_stride[0],
        fps=index.fps,
        min_frames=frames,
        windows=WINDOWS,
        too_long_factor=1e5,
        min_bucket_batches=0,
    )
    clips = open_clips(data, line)
    print("\n".join([f"{len(clips)} clips of {frames} x {height} x {width}", *clips.dropped.lines()]), flush=True)
    return clips


def _batch(index: zoo.ModelIndex, clips: ClipSet) -> int:
    """Clips per step: up to TOKENS visual tokens and eight clips."""
    tokens = index.shapes.tokens(clips.data.frames, *clips.data.size)
    return max(1, min(8, TOKENS // tokens))


def _encode(pipe, clips: ClipSet, keep: list[str]) -> Encoded:
    """Encode each part of each clip, what the model draws of each prompt in `keep`, and each caption, once."""
    release = registry.spec_of(pipe.transformer).given_frames
    encoded, captions, frames = [], [], []
    for video, several in chain(_parts(clips), _drawn(pipe, clips.data, keep)):
        encoded.append(encode_clip(pipe.vae, video))
        captions.append(several)
        if pipe.takes_frames:
            frames.append(encode_frames(pipe.vae, video, release, len(encoded)))
    texts = list(dict.fromkeys(caption for several in captions for caption in several))
    rows = [pipe.encode_prompt(text, guided=False) for text in texts] + [pipe.encode_texts([""])]
    parts = ("encoder_hidden_states", "attention_mask", "pooled_projections")
    conditions = [[getattr(row, part) for row in rows] for part in parts if getattr(rows[0], part) is not None]
    return Encoded(
        np.stack([mean for mean, _ in encoded]),
        np.stack([deviation for _, deviation in encoded]),
        [[texts.index(caption) for caption in several] for several in captions],
        tuple(np.concatenate([value.asnumpy() for value in values]) for values in conditions),
        np.stack(frames) if frames else None,
    )


def _parts(clips: ClipSet) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    """(T, H, W, 3) in [-1, 1] and the captions of up to WINDOWS parts of every clip. InputError: none can be read."""
    read = 0
    for number, clip in enumerate(clips.clips):
        for window in dict.fromkeys(tuple(clips.window(number, window)) for window in range(WINDOWS)):
            try:
                yield clips.frames(number, np.array(window)), clip.captions
                read += 1
            except InputError as error:
                print(f"skipped: {error}", flush=True)
    if not read:
        raise InputError(f"{shown(clips.data.merge_file)}: none of its clips can be read")


def _drawn(pipe, data: VideoData, prompts: list[str]) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    """What the model draws of the prompts, as `_parts` gives clips."""
    height, width = data.size
    pipe.set_progress_bar_config(disable=True)
    for seed, prompt in enumerate(tqdm(prompts, desc="drawing what to keep", disable=not prompts or None)):
        frames = pipe(prompt=prompt, num_frames=data.frames, height=height, width=width, seed=seed).frames[0]
        yield 2 * frames - 1, (prompt,)


def _loss(transformer: nn.Cell, objective: FlowMatching | VPrediction) -> nn.Cell:
    if isinstance(objective, FlowMatching):
        return FlowMatchingLoss(transformer, objective)
    takes_frames = registry.spec_of(transformer).takes_frames
    return (InpaintingLoss if takes_frames else VPredictionLoss)(transformer, objective)


def _levels(objective: FlowMatching | VPrediction) -> Callable:
    def levels(rng, size: int, latent_size: tuple[int, int]) -> np.ndarray:
        draw = objective.draw(rng, size)
        return objective.sigmas(draw, latent_size) if isinstance(objective, FlowMatching) else objective.timesteps(draw)

    return levels


def _fingerprint(asked: FineTuning, clips: ClipSet, batch: int, keep: list[str]) -> str:
    """Hash of what a resumed training must share with the first: all but its length and its rate."""
    content = asdict(replace(asked, steps=0, lr=None, output="")) | {"batch": batch, "keep": keep}
    content["clips"] = [(Path(clip.path).name, clip.captions, clip.num_frames) for clip in clips.clips]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _write_model(source: Path, target: Path, transformer: nn.Cell, weights: dict[str, np.ndarray]) -> None:
    """The model folder `source` with another denoiser's weights, in the dtype of the file that they replace."""
    with ckpt_convert.open_checkpoint(source / "transformer") as checkpoint:
        dtype = NUMPY[next(iter(checkpoint.values())).dtype]
    for name in zoo.ModelIndex.read(source).components.keys() - {"transformer"}:
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    for parameter in transformer.get_parameters():
        parameter.set_data(Tensor(weights[parameter.name]).astype(parameter.dtype))
    (target / "transformer").mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "transformer" / "config.json", target / "transformer")
    ckpt_convert.save(transformer, target / "transformer" / zoo.WEIGHTS["transformer"], dtype)
    write_json(target / "model_index.json", json.loads((source / "model_index.json").read_text("utf-8")))  # last
