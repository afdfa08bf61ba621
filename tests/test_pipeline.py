"""The pipeline on a tiny random model: results, exact repetition, and refused input."""

import io
import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor, nn
from safetensors.numpy import load_file, save_file

from mindsora import TextToVideoPipeline
from mindsora.audit.plan import plan
from mindsora.ckpt_convert import load, shapes
from mindsora.errors import InputError
from mindsora.kernels.skiparse_attention.ascend import segment_ends
from mindsora.models import SUV
from mindsora.pipelines import video_pipeline
from mindsora.pipelines.components import component_dtypes
from mindsora.pipelines.graphs import Graph
from mindsora.pipelines.request import Request
from mindsora.shapes import Tiling
from mindsora.text.templates import template_for

ROOT = Path(__file__).parents[1]
PROMPTS = ["a red cat", "two blue dogs run over a green hill in the rain", "fog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = TextToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def eager(folder):
    pipe = TextToVideoPipeline.from_pretrained(folder, jit="off")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def clip(pipe):
    return pipe(PROMPTS[0], seed=5).frames


def test_frames(pipe, clip):
    assert clip.shape == (1, 9, 32, 48, 3) and clip.dtype == np.float32
    assert 0 <= clip.min() < clip.max() <= 1


def test_output_unpacks_as_diffusers_does(pipe):
    output = pipe(PROMPTS[0], seed=5, num_inference_steps=1, output_type="latent")
    (frames,) = output
    assert frames is output.frames and frames is output[0]
    assert frames.shape == (1, 4, 2, 4, 6)


def test_same_seed_same_bytes(pipe, clip):
    np.testing.assert_array_equal(pipe(PROMPTS[0], seed=5).frames, clip)
    assert np.abs(pipe(PROMPTS[0], seed=6).frames - clip).max() > 0.01
    assert np.abs(pipe(PROMPTS[1], seed=5).frames - clip).max() > 1e-5


def test_clip_of_a_batch_is_the_clip_alone(pipe, clip):
    """Clips are equal byte for byte, because the clips of a call run one after the other."""
    batch = pipe([PROMPTS[1], PROMPTS[0]], num_videos_per_prompt=2, seed=3).frames
    assert batch.shape[0] == 4
    np.testing.assert_array_equal(batch[2], clip[0])  # clip 2 has prompt 1 and seed 3 + 2
    np.testing.assert_array_equal(batch[1], pipe(PROMPTS[1], seed=4).frames[0])


def test_noise(pipe):
    latents = pipe.prepare_latents(17, 64, 48, np.random.RandomState(7))
    expected = np.random.RandomState(7).standard_normal((1, 4, 3, 8, 6)).astype(np.float32)
    np.testing.assert_array_equal(latents.asnumpy(), expected)


def test_graph_equals_pynative(pipe, eager):
    """Within 1e-4: float32 sums in another order through 6 blocks and 2 steps."""
    graph = pipe(PROMPTS[0], seed=5, output_type="latent").frames
    np.testing.assert_allclose(eager(PROMPTS[0], seed=5, output_type="latent").frames, graph, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_denoising_written_out(eager, scale):
    """The loop in NumPy around the model: sigmas, batch order, guidance, Euler step as in Open-Sora Plan v1.5.0
    (branch mindspeed_mmdit, class `OpenSoraPlan`); the rescaling is section 3.4 of arXiv 2305.08891."""
    pipe = eager
    positive, negative = template_for("v1.5").apply(PROMPTS[0])
    texts = [negative, positive] if scale > 1 else [positive]
    ids, mask = pipe.tokenizer(texts)
    states = pipe.text_encoder(Tensor(ids), Tensor(mask)).expand_dims(1)
    pooled = pipe.text_encoder_2(Tensor(pipe.tokenizer_2(texts)[0])).text_embeds.expand_dims(1)

    u = np.array([1, 0.5, 0])
    sigmas = (7 * u / (1 + 6 * u)).astype(np.float32)
    x = np.random.RandomState(9).standard_normal((1, 4, 2, 4, 6)).astype(np.float32)
    for now, after in zip(sigmas[:-1], sigmas[1:]):
        rows = len(texts)
        time = Tensor(np.full(rows, 1000 * now, np.float32))
        ones = Tensor(np.ones((rows, 2, 4, 6), np.float32))
        v = pipe.transformer(Tensor(np.repeat(x, rows, 0)), time, states, pooled, ones, Tensor(mask)).asnumpy()
        if scale > 1:
            guided = v[:1] + scale * (v[1:] - v[:1])
            v = 0.7 * guided * v[1:].std() / guided.std() + 0.3 * guided
        x = x + (after - now) * v
    latents = pipe(PROMPTS[0], guidance_scale=scale, seed=9, output_type="latent").frames
    np.testing.assert_allclose(latents, x, rtol=0, atol=1e-4)  # a mask of ones takes the masked path: other sums

    z = x / np.array([0.5, 1, 1.5, 2], np.float32).reshape(1, 4, 1, 1, 1)
    z = z + np.array([0.1, 0, -0.1, 0.2], np.float32).reshape(1, 4, 1, 1, 1)
    video = pipe.vae.decode(Tensor(z)).asnumpy()[0]
    frames = np.clip(video / 2 + 0.5, 0, 1).transpose(1, 2, 3, 0)
    np.testing.assert_allclose(pipe.decode(Tensor(x))[0], frames, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "latents, pieces",
    [(1, [1]), *(pytest.param(*case, marks=pytest.mark.full) for case in ((4, [25]), (5, [9, 24]), (8, [17, 16, 24])))],
)
def test_decoding_in_pieces(pipe, eager, latents, pieces):
    """Compiled pieces equal PyNative's byte for byte, and the whole within 1e-5: sums in another order."""
    z = Tensor(np.random.RandomState(0).standard_normal((2, 4, latents, 2, 2)).astype(np.float32))
    whole = pipe.vae.decode(pipe.vae.denormalise_latents(z)).asnumpy()
    frames = np.clip(whole / 2 + 0.5, 0, 1).transpose(0, 2, 3, 4, 1)
    decoded = pipe.decode(z)
    np.testing.assert_allclose(decoded, frames, rtol=0, atol=0 if len(pieces) == 1 else 1e-5)
    np.testing.assert_array_equal(decoded, eager.decode(z))
    streamed = list(pipe.decode_chunks(z[1:]))
    assert [len(piece) for piece in streamed] == pieces
    np.testing.assert_array_equal(np.concatenate(streamed), decoded[1])


@pytest.mark.parametrize("latents", [1, 4, pytest.param(8, marks=pytest.mark.full)])
def test_decoding_in_tiles(pipe, eager, latents):
    """Tiles equal the autoencoder's byte for byte, streamed and compiled or not, and differ from the untiled picture."""
    tile = Tiling(16, 8)
    z = Tensor(np.random.RandomState(0).standard_normal((1, 4, latents, 4, 6)).astype(np.float32))
    video = pipe.vae.decode(pipe.vae.denormalise_latents(z), chunked=True, tile=tile).asnumpy()
    frames = (video / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 4, 1)
    for one in (pipe, eager):
        np.testing.assert_array_equal(np.concatenate(list(one.decode_chunks(z, tile)))[None], frames)
    assert np.abs(frames - eager.decode(z)).max() > 1e-3


def test_a_call_decodes_in_tiles(eager):
    arguments = {"num_inference_steps": 1, "seed": 5}
    z = eager(PROMPTS[0], output_type="latent", tile=16, **arguments).frames
    tiled = eager(PROMPTS[0], tile=16, **arguments).frames
    np.testing.assert_array_equal(tiled, eager.decode(Tensor(z), Tiling(16)))
    np.testing.assert_array_equal(eager(PROMPTS[0], tile=64, **arguments).frames, eager(PROMPTS[0], **arguments).frames)


@pytest.mark.full
def test_text_is_encoded_once(pipe, monkeypatch):
    """The text is encoded once for all clips of a prompt, and again when the text or the guidance changes."""
    encoded, encode = [], pipe.encode_prompt
    monkeypatch.setattr(pipe, "encode_prompt", lambda *text: encoded.append(text) or encode(*text))
    pipe(PROMPTS[::2], "dark", num_videos_per_prompt=2, num_inference_steps=1, output_type="latent")
    assert encoded == [(PROMPTS[0], "dark", True), (PROMPTS[2], "dark", True)]
    requests = [Request.of(pipe.index, "fog", guidance_scale=scale, num_inference_steps=1) for scale in (1, 1, 3)]
    assert len(list(pipe.sample(requests))) == 3 and encoded[2:] == [("fog", "", False), ("fog", "", True)]


def test_denoising_never_waits_for_the_device(pipe, monkeypatch):
    """Nothing reads a Tensor's value between the first step and the last."""
    rng = np.random.RandomState(0)
    conditioning, latents = pipe.encode_prompt(PROMPTS[0]), pipe.prepare_latents(9, 32, 48, rng)
    expected = pipe.denoise(latents, conditioning, rng, 3, 3.0, 0.7).asnumpy()  # and compiles

    def waits(*arguments, **options):
        raise AssertionError("a step waited")

    with monkeypatch.context() as patch:
        for name in ("asnumpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__"):
            patch.setattr(Tensor, name, waits, raising=False)
        patch.setattr(ms.runtime, "synchronize", waits)
        result = pipe.denoise(latents, conditioning, rng, 3, 3.0, 0.7)
    np.testing.assert_array_equal(result.asnumpy(), expected)


def test_one_evaluation_a_step(pipe, monkeypatch):
    """A new size needs no extra evaluation, and the progress bar counts the steps."""
    timesteps, bar = [], io.StringIO()

    def denoiser(x, frames, timestep, *rest):
        timesteps.append(timestep.asnumpy().tolist())
        return 0 * x

    monkeypatch.setattr(pipe, "_guided", denoiser)
    monkeypatch.setattr(pipe, "_progress", {"file": bar})
    pipe(PROMPTS[0], num_frames=17, num_inference_steps=3, output_type="latent")
    assert [row[0] for row in timesteps] == [row[1] for row in timesteps] == pytest.approx([1000, 933.3333, 777.7778])
    assert "3/3" in bar.getvalue()


def test_lengths_of_text_for_cann_are_counted_once(pipe, monkeypatch):
    """Every step gets the same tuples: a new tuple would be a new conversion, and counting waits for the device."""
    monkeypatch.setattr(video_pipeline, "choose", lambda operator: "ascend_builtin")
    given = []
    monkeypatch.setattr(pipe, "_guided", lambda x, *rest: given.append(rest[7:]) or 0 * x)
    pipe(PROMPTS[0], num_frames=9, height=32, width=48, num_inference_steps=3, output_type="latent")
    assert len(given) == 3 and all(step[i] is given[0][i] for step in given for i in range(len(given[0])))
    lengths = pipe.encode_prompt(PROMPTS[0]).attention_mask.asnumpy().sum((1, 2))
    rows = 2 * 2 * 3  # latent frames, and patches of a frame
    text = pipe.index.max_text_lengths[0]
    assert given[0] == tuple(
        segment_ends(lengths.tolist(), rows, text, n, group) for n, group in ((1, False), (2, False), (2, True))
    )


def test_the_velocity_is_a_seam(eager):
    """A cache of every second velocity, built from outside on the pipeline's velocity and the scheduler's steps."""
    rng = np.random.RandomState(0)
    conditioning, latents = eager.encode_prompt(PROMPTS[0]), eager.prepare_latents(9, 32, 48, rng)
    velocity = eager.velocity(conditioning, 3.0, 0.7)
    *_, last = eager.scheduler.steps(velocity, latents, 2, rng)
    expected = eager.denoise(latents, conditioning, rng, 2, 3.0, 0.7)
    np.testing.assert_array_equal(last.latents.asnumpy(), expected.asnumpy())
    calls, kept = [], []

    def cached(x, timestep):
        if len(calls) % 2 == 0:
            kept[:] = [velocity(x, timestep)]
        calls.append(timestep)
        return kept[0]

    *_, last = eager.scheduler.steps(cached, latents, 2, rng)
    whole = latents - velocity(latents, 1000.0)  # the velocity at sigma = 1, all the way to sigma = 0
    np.testing.assert_allclose(last.latents.asnumpy(), whole.asnumpy(), rtol=0, atol=1e-5)  # one step's sums, or two
    with pytest.raises(InputError, match="guidance_scale = 1.0: needs 1 rows of text, not 2"):
        eager.velocity(conditioning, 1.0)


def test_a_graph_reports_each_compilation():
    """It compiles once for new input shapes, whatever their values, and never in PyNative."""

    class Sum(nn.Cell):
        def construct(self, x, y, state=None):
            return x + y if state is None else x + y + state[0]

    reports = []
    graph = Graph(Sum(), "the sum", "O0", lambda name, seconds: reports.append((name, seconds > 0)))
    one, two = (Tensor(np.ones(size, np.float32)) for size in (1, 2))
    for inputs, number in (((one, one), 1), ((two, one), 2), ((2 * one, one), 2), ((one, one, ms.mutable((two,))), 3)):
        expected = sum(x.asnumpy() if isinstance(x, Tensor) else x[0].asnumpy() for x in inputs)
        np.testing.assert_array_equal(graph(*inputs).asnumpy(), expected)
        assert reports == [("the sum", True)] * number
    assert float(Graph(Sum(), "the sum", "off", None)(one, one)[0]) == 2


def test_callback(pipe):
    seen = []

    def stop_moving(pipeline, step, timestep, state):
        seen.append((step, timestep))
        return {"latents": state["latents"] * 0}

    latents = pipe(PROMPTS[0], output_type="latent", callback_on_step_end=stop_moving).frames
    assert not latents.any()
    assert seen == [(0, pytest.approx(1000)), (1, pytest.approx(875))]  # 7 / 2 / (1 + 6 / 2) = 0.875


@pytest.mark.full
def test_one_frame(pipe):
    assert pipe(PROMPTS[0], num_frames=1, num_inference_steps=1).frames.shape == (1, 1, 32, 48, 3)


def test_long_prompt_is_cut_with_a_warning(pipe):
    words = " ".join(f"number{i}" for i in range(30))
    with pytest.warns(UserWarning, match="prompt is over the 40 tokens of T5Tokenizer; cut off: '.*number29'"):
        conditioning = pipe.encode_prompt(words)
    assert conditioning.encoder_hidden_states.shape == (2, 1, 40, 24)
    assert conditioning.attention_mask.asnumpy()[1].all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"prompt": "  "}, ["the prompt is empty"]),
        ({"prompt": ["fog", ""]}, ["prompt 2 of 2 is empty"]),
        ({"prompt": []}, ["at least one"]),
        ({"prompt": None}, ["prompt = None", "text"]),
        ({"prompt": [1]}, ["prompt = [1]", "text"]),
        ({"prompt": "a \ud800 cat"}, ["prompt 'a \\ud800 cat'", "half of a surrogate pair"]),
        ({"guidance_scale": "7"}, ["guidance_scale = '7'", "number"]),
        ({"prompt": "photo.png"}, ["photo.png", "after cleaning"]),
        ({"num_frames": 10}, ["num_frames = 10", "1 + 8k", "9 or 17"]),
        ({"num_frames": 25}, ["num_frames = 25", "nearest legal: 17"]),
        ({"height": 40}, ["height = 40", "multiple of 16", "32 or 48"]),
        ({"width": 1024}, ["width = 1024", "nearest legal: 64"]),
        ({"num_inference_steps": 0}, ["num_inference_steps = 0", "nearest legal: 1"]),
        ({"num_inference_steps": 1001}, ["num_inference_steps = 1001", "nearest legal: 1000"]),
        ({"guidance_scale": float("nan")}, ["guidance_scale = nan"]),
        ({"guidance_rescale": 1.5}, ["guidance_rescale = 1.5", "nearest legal: 1"]),
        ({"num_videos_per_prompt": 0}, ["num_videos_per_prompt = 0"]),
        ({"seed": -1}, ["seed = -1"]),
        ({"seed": 2**32 - 1, "num_videos_per_prompt": 2}, ["seed = 4294967295", "4294967294"]),
        ({"seed": 0.6}, ["seed = 0.6", "whole number", "nearest legal: 1"]),
        ({"seed": "3"}, ["seed = '3'", "whole number"]),
        ({"num_videos_per_prompt": 0.2}, ["num_videos_per_prompt = 0.2", "nearest legal: 1"]),
        ({"tile": 20}, ["tile size = 20", "16 or 24"]),
        ({"tile": 16.0}, ["tile size = 16.0"]),
        ({"output_type": "pt"}, ["'pt'", "np, pil, ms, latent"]),
        ({"negative_prompt": ["a", "b"]}, ["2 negative prompts for 1 prompts"]),
    ],
)
def test_bad_calls(pipe, arguments, words):
    with pytest.raises(InputError) as error:
        pipe(**{"prompt": PROMPTS[0]} | arguments)
    for word in words:
        assert word in str(error.value)


def test_numpy_integers_are_whole_numbers(eager):
    one = Request.of(eager.index, PROMPTS[0], seed=np.int64(5), num_videos_per_prompt=np.int32(2))
    assert one == Request.of(eager.index, PROMPTS[0], seed=5, num_videos_per_prompt=2)
    size = {"num_frames": np.int64(9), "height": np.int32(32), "width": np.uint16(48)}
    typed = Request.of(eager.index, PROMPTS[0], **size, num_inference_steps=np.int64(4))
    assert typed.size == (9, 32, 48) and all(type(side) is int for side in (*typed.size, typed.num_inference_steps))


def test_words_that_the_cleaner_drops_are_said(eager):
    with pytest.warns(UserWarning, match="the prompt loses 'c3po' to the cleaner .* the model reads 'walks'"):
        Request.of(eager.index, "C3PO walks")


def test_another_cell_takes_effect(folder):
    """Users of diffusers assign a fine-tuned denoiser to a loaded pipeline; a graph would keep the old one."""
    pipe = TextToVideoPipeline.from_pretrained(folder, jit="off")
    pipe.set_progress_bar_config(disable=True)
    options = {"prompt": PROMPTS[0], "num_frames": 1, "num_inference_steps": 1, "output_type": "latent"}
    before = pipe(**options).frames
    other = TextToVideoPipeline.from_pretrained(folder, jit="off").transformer
    other.proj_out.weight.set_data(other.proj_out.weight * 2)
    pipe.transformer = other
    after = pipe(**options).frames
    assert not np.array_equal(after, before)
    assert pipe._guided.function.transformer is other


def test_a_callback_can_stop(eager):
    """As in diffusers: the latents of that step are the result."""
    seen = []

    def stop(pipe, step, timestep, values):
        seen.append(values["latents"].asnumpy())
        pipe._interrupt = step == 1

    options = {"prompt": PROMPTS[0], "num_frames": 1, "num_inference_steps": 4, "output_type": "latent"}
    latents = eager(**options, callback_on_step_end=stop).frames
    assert len(seen) == 2
    np.testing.assert_array_equal(latents, seen[-1])
    np.testing.assert_array_equal(eager.decode(latents), eager.decode(Tensor(latents)))  # its own output, decoded later


def test_settings_of_the_bar_and_copies(eager, capsys):
    eager.set_progress_bar_config(desc="mine", total=3)
    try:
        eager(PROMPTS[0], num_frames=1, num_inference_steps=1)
    finally:
        eager.set_progress_bar_config(disable=True)
    assert "mine" in capsys.readouterr().err
    with pytest.raises(InputError, match="load it a second time"):
        deepcopy(eager)


# Loading


def test_dtypes():
    assert set(component_dtypes(None, "CPU").values()) == {ms.float32}
    ascend = component_dtypes(None, "Ascend")
    assert ascend.pop("vae") == ms.float32 and set(ascend.values()) == {ms.bfloat16}
    assert component_dtypes({"vae": "fp16"}, "Ascend")["vae"] == ms.float16
    assert component_dtypes("fp16", "CPU")["vae"] == ms.float16
    assert component_dtypes(ms.float16, "CPU") == component_dtypes("FP16", "CPU")
    for dtype, words in (
        ("bf16", ["bfloat16", "CPU", "float32"]),
        ("bfloat16", ["bfloat16 for transformer"]),
        ({"vae": "bf16"}, ["bfloat16 for vae"]),
        ("int8", ["'int8'"]),
        ({"unet": "fp16"}, ["'unet'"]),
    ):
        with pytest.raises(InputError) as error:
            component_dtypes(dtype, "CPU")
        assert all(word in str(error.value) for word in words)


@pytest.mark.full
def test_half_precision_runs_and_is_near(folder, pipe):
    """float16 latents within 0.02: about ten float16 roundings (2^-11) of values around 4."""
    half = TextToVideoPipeline.from_pretrained(folder, dtype={"transformer": "float16", "text_encoder_2": "float16"})
    half.set_progress_bar_config(disable=True)
    assert half.transformer.proj_out.weight.dtype == ms.float16
    assert next(half.vae.get_parameters()).dtype == next(half.text_encoder.get_parameters()).dtype == ms.float32
    whole = pipe(PROMPTS[0], seed=5, output_type="latent").frames
    latents = half(PROMPTS[0], seed=5, output_type="latent").frames
    assert latents.dtype == np.float32 and np.abs(latents).max() > 0.5
    np.testing.assert_allclose(latents, whole, rtol=0, atol=0.02)


def test_parameters_are_not_allocated_twice(folder, monkeypatch):
    """No initialiser runs: all values come from the file."""
    from mindspore.common import initializer

    monkeypatch.setattr(initializer.Initializer, "__call__", lambda self, array: pytest.fail("initialised"))
    TextToVideoPipeline.from_pretrained(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(path: Path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def shard(copy: Path) -> None:
    """Split the denoiser's file into two shards with an index, the form of large checkpoints."""
    weights = load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    names = sorted(weights)
    parts = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: weights[k] for k in keys}, copy / "transformer" / file)
    weight_map = {k: file for file, keys in parts.items() for k in keys}
    index = {"metadata": {}, "weight_map": weight_map}
    (copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights(folder, copy):
    shard(copy)
    whole, parts = (
        load(SUV.from_upstream(tiny_pipeline.CONFIGS["transformer"][1]), f / "transformer") for f in (folder, copy)
    )
    assert shapes(folder / "transformer") == shapes(copy / "transformer")
    for a, b in zip(whole.get_parameters(), parts.get_parameters()):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def break_index(copy):
    shard(copy)
    edit(copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json", weight_map=None)


def lose_shard(copy):
    shard(copy)
    (copy / "transformer" / "a-00002-of-00002.safetensors").unlink()


def truncate(copy):
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[: len(data) // 2])


def drop_tensor(copy):
    weights = load_file(copy / WEIGHTS)
    del weights["proj_out.bias"]
    save_file(weights, copy / WEIGHTS)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: (f / WEIGHTS).unlink(), ["transformer", "one weight file", "none"]),
        (lambda f: (f / WEIGHTS).write_bytes(b""), [WEIGHTS, "neither a whole safetensors"]),
        (truncate, [WEIGHTS, "is cut off"]),
        (drop_tensor, ["does not fit SUV", "missing ['proj_out.bias']"]),
        (break_index, ["weight_map"]),
        (lose_shard, ["a-00002-of-00002.safetensors", "does not exist"]),
        (lambda f: shutil.copy(f / WEIGHTS, f / "transformer" / "b.safetensors"), ["found b.safetensors, diffusion"]),
        (
            lambda f: edit(f / "transformer/config.json", num_head=3),
            ["transformer/config.json", "'num_head'", "num_heads"],
        ),
        (lambda f: edit(f / "vae/config.json", latent_dims=4), ["vae/config.json", "'latent_dims'", "'latent_dim'"]),
        (
            lambda f: edit(f / "text_encoder/config.json", d_modle=4),
            ["text_encoder/config.json", "'d_modle'", "'d_model'"],
        ),
        (lambda f: edit(f / "text_encoder_2/config.json", hidden=4), ["text_encoder_2/config.json", "'hidden'"]),
        (
            lambda f: edit(f / "scheduler/scheduler_config.json", shfit=4),
            ["scheduler_config.json", "'shfit'", "'shift'"],
        ),
        (lambda f: edit(f / "model_index.json", hieght=64), ["model_index.json", "'hieght'", "'height'"]),
        (lambda f: edit(f / "model_index.json", height=None), ["model_index.json", "lacks height"]),
        (lambda f: edit(f / "model_index.json", num_frames=10), ["model_index.json", "num_frames = 10"]),
        (lambda f: edit(f / "model_index.json", template="v9"), ["model_index.json", "'v9'"]),
        (
            lambda f: edit(f / "model_index.json", vae=["mindsora", "CausalVAE"]),
            ["model_index.json", "CausalVAE", "WFVAE"],
        ),
        (lambda f: edit(f / "model_index.json", vae_stride=[4, 8, 8]), ["temporal stride", "4 and 8"]),
        (lambda f: edit(f / "model_index.json", max_text_lengths=[40, 77]), ["48 positions"]),
        (lambda f: edit(f / "transformer/config.json", caption_channels=8), ["text width", "8 and 24"]),
        (
            lambda f: edit(f / "text_encoder/config.json", vocab_size=10),
            ["tokenizer has", "text_encoder embeds 10", "different models"],
        ),
        (lambda f: (f / "model_index.json").write_text("{"), ["model_index.json", "not JSON"]),
        (lambda f: (f / "model_index.json").unlink(), ["no model_index.json"]),
        (lambda f: (f / "tokenizer/spiece.model").unlink(), ["spiece.model"]),
        (lambda f: shutil.rmtree(f / "tokenizer_2"), ["tokenizer_2"]),
        (lambda f: (f / "vae/config.json").unlink(), ["vae/config.json", "does not exist"]),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_damaged_folders(copy, damage, words):
    damage(copy)
    with pytest.raises(InputError) as error:
        TextToVideoPipeline.from_pretrained(copy)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_unknown_models():
    with pytest.raises(InputError, match="no model 'nanoo'"):
        TextToVideoPipeline.from_pretrained("nanoo")
    with pytest.raises(InputError, match="jit 'O3' must be"):
        TextToVideoPipeline.from_pretrained("nanoo", jit="O3")
    with pytest.raises(InputError, match="v1_5.*not in the box.*folder"):
        TextToVideoPipeline.from_pretrained("v1_5")


# Compilation, counted in MindSpore's log

COUNT = """
import json, sys
from mindsora.runtime import Runtime
Runtime(device="CPU").apply()
from mindsora import TextToVideoPipeline
pipe = TextToVideoPipeline.from_pretrained(sys.argv[1])
for prompt, options in json.loads(sys.argv[2]):
    pipe(prompt, **{"height": 16, "width": 16} | options)
    print("[CALL DONE]", file=sys.stderr, flush=True)
"""
# A call, and the graphs that it compiles: text encoders, denoiser, decoder.
CALLS = [
    ("a red cat", {}, 3),
    ("a red cat", {"seed": 1, "num_inference_steps": 3, "guidance_scale": 7.0}, 0),  # the same bucket
    ("two blue dogs run over a green hill in the rain", {"num_videos_per_prompt": 2}, 0),  # another prompt length
    ("fog", {"negative_prompt": "dark", "guidance_rescale": 0.1}, 0),
    ("fog", {"num_frames": 57}, 3),  # another bucket; its decoder has a first piece (latents 0 to 3) and later ones
    ("fog", {"num_frames": 89}, 1),  # more tokens for the denoiser; pieces as before
    ("fog", {"num_frames": 65}, 2),  # and a first piece of latents 0 to 2
    ("a red cat", {"num_frames": 57, "seed": 2}, 0),
    ("fog", {"num_frames": 57, "height": 32, "width": 48, "tile": 16}, 1),  # more tokens; tiles as frames above
    ("fog", {"guidance_scale": 1.0}, 2),  # one row: another text encoder and denoiser
]


@pytest.mark.full
def test_graphs(copy):
    """MindSpore logs "Start compiling 'name'" at level INFO for every graph it builds; the user sees a line for each."""
    edit(copy / "model_index.json", max_frames=121)
    env = os.environ | {"GLOG_v": "2", "MS_SUBMODULE_LOG_v": "{PIPELINE:1}", "PYTHONPATH": str(ROOT)}
    calls = json.dumps([(prompt, {"num_inference_steps": 1} | options) for prompt, options, _ in CALLS])
    command = [sys.executable, "-c", COUNT, copy, calls]
    log = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    parts = log.stdout.split("[CALL DONE]")[:-1]
    expected = [graphs for *_, graphs in CALLS]
    assert [part.count("] Start compiling '") for part in parts] == expected
    assert [sum(line.startswith("compiled the ") for line in part.splitlines()) for part in parts] == expected
    short, long = (plan(copy, (frames, 16, 16))["graphs"] for frames in (9, 57))
    assert sum(short.values()) == expected[0] and sum(long.values()) - long["encode_prompt"] == expected[4]


@pytest.mark.full
def test_what_the_compile_cache_goes_by(pipe, folder, copy):
    """The key covers everything that changes a graph or the order of graphs, and no graph inputs."""

    def graphs(pipe, prompt="fog", **options):
        return pipe.graphs([Request.of(pipe.index, prompt, **options)])

    same = graphs(pipe)
    assert json.loads(json.dumps(same))["requests"] == [[9, 32, 48, True, None]]
    assert graphs(pipe, "a cat", seed=3, num_inference_steps=7, guidance_scale=2.0, negative_prompt="dark") == same
    for options in ({"num_frames": 17}, {"height": 16}, {"width": 16}, {"guidance_scale": 1.0}, {"tile": 16}):
        assert graphs(pipe, **options) != same
    requests = [Request.of(pipe.index, "fog", width=width) for width in (16, 32, 16)]
    assert pipe.graphs(requests) == pipe.graphs(requests[:2]) != pipe.graphs(requests[1::-1])
    config = json.loads((copy / "vae/config.json").read_text())
    edit(copy / "vae/config.json", shift=[0.0] * len(config["shift"]))
    assert graphs(TextToVideoPipeline.from_pretrained(copy)) != same
