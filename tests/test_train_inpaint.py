"""The inpainting training in miniature: its inputs, its loss written out, graph against PyNative, resuming, and the
folder that ImageToVideoPipeline runs."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file

from mindsora import ImageToVideoPipeline, zoo
from mindsora.ckpt_convert import load, save
from mindsora.config import read_json
from mindsora.data.frame_masks import TASKS, compress, name_task
from mindsora.data.latents import Latents, MaskedLatents, masked_clip, prepare_latents, prepare_masked_latents
from mindsora.data.toy.procedural import clip
from mindsora.data.toy.source import ProceduralClips
from mindsora.errors import InputError
from mindsora.files import write_json
from mindsora.models import WFVAE
from mindsora.models.wfvae.model import BLOCKS_8
from mindsora.sampling import VPredictionScheduler
from mindsora.text.tokenizers import T5Tokenizer
from mindsora.train import loop, train
from mindsora.train.checkpoint import Identity
from mindsora.train.methods.inpainting import PARTS, InpaintLoss, batches, complete_configs
from mindsora.train.objectives import VPrediction
from mindsora.train.optimizer import TrainStep
from mindsora.train.recipe import InpaintRecipe, fingerprint, load_recipe

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "nano_i2v"
TOKENIZER = ROOT / "mindsora" / "weights" / "nano" / "tokenizer"
TINY = [
    "transformer.num_layers=3",
    "transformer.num_attention_heads=2",
    "transformer.attention_head_dim=6",
    "text_encoder.d_model=16",
    "text_encoder.d_kv=8",
    "text_encoder.d_ff=16",
    "text_encoder.num_heads=2",
    "text_encoder.num_layers=1",
    "data.frames=9",
    "data.size=32",
    "data.clips=4",
    "data.batch=2",
    "data.draws=2",
    "run.steps=2",
    "run.log_every=1",
]
VAE = {
    "base_channels": 4,
    "latent_dim": 4,
    "encoder_num_resblocks": 1,
    "encoder_energy_flow_hidden_size": 4,
    "decoder_num_resblocks": 1,
    "decoder_energy_flow_hidden_size": 4,
    "connect_res_layer_num": 0,
    "use_attention": True,
    "norm_type": "layernorm",
    "t_interpolation": "trilinear",
} | BLOCKS_8


def recipe(folder, *more) -> InpaintRecipe:
    paths = [f"run.out={folder / 'out'}", f"run.export={folder / 'model'}"]
    return load_recipe(RECIPE / "inpaint.yaml", [*TINY, *paths, *more])


def clips_of(spec: InpaintRecipe) -> ProceduralClips:
    return ProceduralClips(spec.data.clips, spec.data.frames, spec.data.size)


def scatter(cell: nn.Cell, seed: int = 0) -> nn.Cell:
    """All weights are random: zero-initialised ones would hide the given frames and have no gradient."""
    rng = np.random.RandomState(seed)
    for p in cell.get_parameters():
        p.set_data(Tensor((rng.normal(0, 0.1, p.shape) + (p.ndim == 1)).astype(np.float32)))
    return cell


def write_vae(folder: Path) -> Path:
    vae = scatter(WFVAE.from_upstream(VAE))
    folder.mkdir(parents=True)
    save(vae, folder / "diffusion_pytorch_model.safetensors")
    write_json(folder / "config.json", vae.config.to_upstream())
    return folder


def task(spec: InpaintRecipe):
    """Loss and batches on random latents."""
    tokenizer = T5Tokenizer.from_folder(TOKENIZER, 32)
    objective = VPrediction(VPredictionScheduler.from_upstream(spec.scheduler))
    rng = np.random.default_rng(0)
    shape = (spec.data.clips, 4, 2, 4, 4)
    latents = Latents(
        rng.normal(size=shape).astype(np.float32),
        np.zeros(shape, np.float32),
        np.zeros((4, 1, 1, 1), np.float32),
        np.ones((4, 1, 1, 1), np.float32),
    )
    masked = MaskedLatents(
        rng.normal(size=(4, 2, *shape[1:])).astype(np.float32), rng.integers(0, 2, (4, 2, 8, 2)).astype(np.float32)
    )
    ms.set_seed(0)
    loss = InpaintLoss(complete_configs(spec, WFVAE.from_upstream(VAE).config, tokenizer), objective).set_train()
    return loss, batches(spec.data, 0, clips_of(spec), latents, masked, objective, tokenizer)


def test_tasks_are_drawn_by_weight_and_frames_hidden():
    video = clip(3, size=16)[0]
    weights = {"i2v": 3, "transition": 1, "continuation": 2, "random_temporal": 1, "t2iv": 1, "clear": 1}
    drawn, levels = Counter(), []
    for seed in range(450):
        pixels, mask = masked_clip(video, weights, (seed, 0))
        given = tuple(np.flatnonzero(mask == 0))
        drawn[name_task(given, 17)] += 1
        assert (pixels[mask == 1] == -1).all()  # black, not gray
        if given:
            levels.append((pixels[mask == 0] - (video[mask == 0] / np.float32(127.5) - 1)).std())
    # Weights 3 and 1 of 9; a continuation of 0, 1 or 17 frames has another task's name. Within 4 standard deviations.
    assert abs(drawn["i2v"] - 150 - 100 / 18) < 42 and abs(drawn["transition"] - 50) < 28 and drawn.keys() == set(TASKS)
    levels = np.array(levels)
    assert 0.01 < (levels < 1e-3).mean() < 0.10  # one in twenty has no noise
    assert 0.04 < np.median(levels) < 0.06  # exp(-3) = 0.0498, as upstream
    again, mask_again = masked_clip(video, weights, (449, 0))
    assert again.tobytes() == pixels.tobytes() and (mask_again == mask).all()


def test_latents_of_hidden_frames_are_the_pipelines(tmp_path):
    """Encoded whole and in a graph here, in chunks and PyNative there: 1e-4 of float32 sums in another order."""
    folder, data, source = write_vae(tmp_path / "vae"), recipe(tmp_path).data, clips_of(recipe(tmp_path))
    clips = prepare_latents(folder, tmp_path / "a", source)

    def prepare(tasks=data.tasks, draws=data.draws):
        return prepare_masked_latents(folder, tmp_path / "b", source, tasks, draws, clips)

    masked = prepare()
    vae = load(
        WFVAE.from_upstream(read_json(folder / "config.json")), folder
    )  # with the shift and scale of its config.json
    pairs = [(0, 0), (3, 1), (2, 0)]
    frames = masked.take(*np.array(pairs).T)
    assert frames.shape == (3, 4 + 8, 2, 4, 4)
    for frame, (i, d) in zip(frames, pairs):
        pixels, mask = masked_clip(clip(i, size=32, frames=9)[0], data.tasks, (i, d))
        video = Tensor(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)[None]))
        expected = vae.normalise_latents(vae.encode(video, chunked=True).mode()).asnumpy()[0]
        np.testing.assert_allclose(frame[:4], expected, rtol=0, atol=1e-4)
        plain = np.broadcast_to(mask.reshape(1, 1, 9, 1, 1), (1, 1, 9, 32, 32))
        np.testing.assert_array_equal(frame[4:], compress(plain, (8, 8, 8))[0])
    kept = prepare()
    assert kept.latents.tobytes() == masked.latents.tobytes() and kept.masks.tobytes() == masked.masks.tobytes()
    with pytest.raises(InputError, match="another draws"):
        prepare(draws=3)
    with pytest.raises(InputError, match="another tasks"):
        prepare(tasks={"i2v": 1.0})


def test_loss_written_out(tmp_path):
    """v of arXiv 2305.08891 in float64 around the model: only the clip's latents have noise, every sample has
    the same weight, and all frames count."""
    loss, batch = task(recipe(tmp_path, "data.batch=4"))
    scatter(loss)
    x0, noise, timestep, ids, mask, frames = batch(0)
    timestep[0] = 999  # pure noise, which min-SNR weights would leave out
    betas = np.linspace(1e-4, 2e-2, 1000)
    root = np.sqrt(np.cumprod(1 - betas))
    abar = (((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)[timestep.astype(int)].reshape(-1, 1, 1, 1, 1)
    x = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * noise
    v = np.sqrt(abar) * noise - np.sqrt(1 - abar) * x0
    text = loss.text_encoder(Tensor(ids), Tensor(mask))
    inputs = np.concatenate((x, frames), 1).astype(np.float32)
    predicted = (
        loss.transformer(Tensor(inputs), Tensor(timestep), text.expand_dims(1), None, None, Tensor(mask).expand_dims(1))
        .asnumpy()
        .astype(np.float64)
    )
    squares = ((predicted - v) ** 2).mean((1, 2, 3, 4))
    noisy = (np.sqrt(1 - abar) / np.sqrt(abar + 1e-12) > 7 / 3).ravel()
    value, parts = loss(*map(Tensor, (x0, noise, timestep, ids, mask, frames)))
    assert noisy.sum() > 0
    np.testing.assert_allclose(float(value), squares.mean(), rtol=1e-5)  # float32 against float64
    np.testing.assert_allclose(parts.asnumpy(), [squares[noisy].mean()], rtol=1e-5)


def test_batches(tmp_path):
    """A function of the step's number; clips and their hidden versions belong together; captions drop out."""
    spec = recipe(tmp_path, "data.batch=4", "data.caption_dropout=0.5")
    _, batch = task(spec)
    for first, second in zip(batch(7), batch(7)):
        assert first.tobytes() == second.tobytes()
    empty = T5Tokenizer.from_folder(TOKENIZER, 32)([""])[0]
    _, _, timestep, _, _, frames = batch(0)
    _, _, _, _, _, frames_1 = batch(1)
    assert frames.shape == (4, 12, 2, 4, 4) and set(np.unique(frames[:, 4:])) == {0, 1}
    assert (timestep == np.round(timestep)).all() and timestep.min() >= 0 and timestep.max() <= 999
    dropped = np.mean([(row == empty[0]).all() for step in range(25) for row in batch(step)[3]])
    assert abs(dropped - 0.5) < 0.2  # 4 standard deviations of 100 draws
    # Of 8 hidden versions of 4 clips, each batch of 4 shows one of every clip.
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(4, 4, 2, 4, 4)).astype(np.float32)
    masked = rng.normal(size=(4, 2, 4, 2, 4, 4)).astype(np.float32)
    for step, shown in ((0, frames), (1, frames_1)):
        for x, row in zip(batch(step)[0], shown):
            number = next(i for i in range(4) if (clips[i] - x).std() == min((c - x).std() for c in clips))
            assert any((masked[number, d] == row[:4]).all() for d in range(2))


@pytest.mark.full
def test_gradients_under_jit_equal_pynative(tmp_path):
    spec, states = recipe(tmp_path, "transformer.num_layers=4"), []  # two dense blocks, and both sparse kinds
    for wrap in (lambda cell: cell, ms.jit):
        loss, batch = task(spec)
        step = TrainStep(scatter(loss), spec.optimizer)
        run = wrap(step)
        # Rate 0: the first moments after three calls then hold the gradients alone, no drift of the weights.
        metrics = [run(Tensor(0.0, ms.float32), *map(Tensor, batch(i))).asnumpy() for i in range(3)]
        states.append(({w.name: m.asnumpy() for w, m in zip(step.adamw.weights, step.adamw.moment1)}, metrics))
    (plain, plain_metrics), (graph, graph_metrics) = states
    np.testing.assert_allclose(graph_metrics, plain_metrics, rtol=2e-4)
    assert [name for name, gradient in graph.items() if not gradient.any()] == []
    for name, gradient in plain.items():
        # float32 sums in another order, so relative to the tensor's largest entry
        np.testing.assert_allclose(
            graph[name], gradient, rtol=0, atol=max(2e-4 * np.abs(gradient).max(), 1e-6), err_msg=name
        )


def test_zero_layers_learn_first(tmp_path):
    """Fresh weights compute the text-to-video result; the first gradient reaches the zero layers, not those behind them."""
    loss, batch = task(recipe(tmp_path))
    step = TrainStep(loss, recipe(tmp_path).optimizer)
    x0, noise, timestep, ids, mask, frames = map(Tensor, batch(0))
    loss.transformer.proj_out.weight.set_data(
        Tensor(np.random.RandomState(0).normal(0, 0.1, loss.transformer.proj_out.weight.shape).astype(np.float32))
    )
    assert float(loss(x0, noise, timestep, ids, mask, frames)[0]) == float(
        loss(x0, noise, timestep, ids, mask, frames * 0)[0]
    )
    step(Tensor(0.0, ms.float32), x0, noise, timestep, ids, mask, frames)
    moments = {w.name: m.asnumpy() for w, m in zip(step.adamw.weights, step.adamw.moment1)}
    for name in ("embed_masked_video", "embed_mask"):
        assert moments[f"transformer.{name}.merge.weight"].any()
        assert not moments[f"transformer.{name}.patches.weight"].any()


@pytest.mark.full
def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    """Weights, moments, averages and clipping are equal bit for bit."""

    def run(name, *stops):
        for steps in stops:
            spec = recipe(tmp_path / name, f"run.steps={steps}", "optimizer.decay_from=1", "transformer.num_layers=1")
            loss, batch = task(spec)
            step = TrainStep(loss, spec.optimizer, PARTS)
            given = loop.Task(step, lambda batch=batch: loop.numbered(batch), lambda weights: None)
            loop.train(given, spec.optimizer, spec.run, Identity(fingerprint(spec), spec.data.batch))
        return load_file(tmp_path / name / "out" / "state_00000006.safetensors")

    unbroken, broken = run("unbroken", 6), run("broken", 3, 6)
    assert unbroken.keys() == broken.keys() and unbroken["updates"] == 6
    for name in unbroken:
        assert unbroken[name].tobytes() == broken[name].tobytes(), name


@pytest.mark.full
def test_trained_folder_is_a_pipeline(tmp_path):
    model = tmp_path / "model"
    write_vae(model / "vae")
    shutil.copytree(TOKENIZER, model / "tokenizer")
    train(recipe(tmp_path))
    index = zoo.ModelIndex.read(model)
    assert index.components == {
        "transformer": "OpenSoraInpaint",
        "vae": "WFVAE",
        "text_encoder": "T5Encoder",
        "tokenizer": "T5Tokenizer",
        "scheduler": "VPredictionScheduler",
    }
    assert (index.takes_frames, index.vae_stride, index.max_text_lengths) == (True, (8, 8, 8), (32,))
    assert read_json(model / "transformer" / "config.json")["vae_scale_factor_t"] == 8

    pipe = ImageToVideoPipeline.from_pretrained(model, jit="off")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.snr_gamma is None and pipe.scheduler.rescale_betas_zero_snr
    video = clip(0, size=32, frames=9)[0]
    given = {"images": [(video[0], 0), (video[-1], -1)]}
    for arguments in ({}, given, {"video": video[:4]}):
        (frames,) = pipe(prompt="a red circle moving left", num_inference_steps=1, **arguments)
        assert frames.shape == (1, 9, 32, 32, 3) and np.isfinite(frames).all()

    with pytest.raises(InputError, match="transformer.vae_scale_factor_t = 4: the other parts need 8"):
        train(recipe(tmp_path, "transformer.vae_scale_factor_t=4"))
    with pytest.raises(InputError, match="num_frames = 10: .*nearest legal"):
        train(recipe(tmp_path, "data.frames=10"))


def test_the_recipe_loads():
    spec = load_recipe(RECIPE / "inpaint.yaml")
    assert isinstance(spec, InpaintRecipe) and spec.data.max_text_lengths == (32,)
    assert fingerprint(spec) != fingerprint(load_recipe(RECIPE / "inpaint.yaml", ["data.tasks.i2v=41"]))
    assert VPredictionScheduler.from_upstream(spec.scheduler) == VPredictionScheduler(snr_gamma=None)


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.taks.i2v=1", "unknown key data.taks: did you mean data.tasks?"),
        ("text_encoder_2.hidden_size=8", "unknown key text_encoder_2: did you mean text_encoder?"),
        ("data.tasks.i2w=1", "unknown task 'i2w'"),
        ("data.tasks.i2v=-1", "weight of task 'i2v' is -1.0: must be 0 or more"),
        ("data.tasks=null", "data.tasks"),
        ("data.draws=0", "data.draws = 0: must be at least 1"),
        ("data.batch=19000", "data.batch = 19000: must lie in 1..data.clips (12000)"),
    ],
)
def test_bad_values_are_one_clear_error(override, message):
    with pytest.raises(InputError) as error:
        load_recipe(RECIPE / "inpaint.yaml", [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_tasks_are_needed(tmp_path):
    text = (RECIPE / "inpaint.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(
        "".join(line for line in text.splitlines(keepends=True) if not line.startswith("  tasks:"))
    )
    with pytest.raises(InputError, match="missing mandatory value.*tasks"):
        load_recipe(tmp_path / "recipe.yaml")


def test_run_sh_needs_the_nano_model(tmp_path):
    """It says so before any training; a copy is complete or absent."""

    def run():
        environment = os.environ | {name: str(tmp_path / name.lower()) for name in ("NANO", "MODEL", "OUTPUT")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        return subprocess.run(
            [RECIPE / "run.sh", "run.stepz=1"], cwd=ROOT, capture_output=True, text=True, env=environment
        )

    (tmp_path / "nano" / "vae").mkdir(parents=True)
    assert (done := run()).returncode == 2 and "make the nano model first" in done.stderr and "tokenizer" in done.stderr
    shutil.copytree(TOKENIZER, tmp_path / "nano" / "tokenizer")
    done = run()
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["tokenizer", "vae"]
    assert done.returncode == 2 and "unknown key run.stepz: did you mean run.steps?" in done.stderr
