"""v1.3's pipelines on tiny random models: results, given frames, and refused input."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor, nn
from PIL import Image

from mindsora import ImageToVideoPipeline, TextToVideoPipeline, cli, manifest, media
from mindsora.audit.plan import plan
from mindsora.errors import InputError
from mindsora.files import file_sha256
from mindsora.media import export_to_video
from mindsora.pipelines.given_frames import given_frames
from mindsora.pipelines.request import Request
from mindsora.pipelines.video_pipeline import _GuidedVelocity, _Velocity
from mindsora.shapes import Tiling
from mindsora.text.templates import template_for

SIZE = {"num_frames": 5, "height": 16, "width": 32}
SHAPE = tuple(SIZE.values())
LATENTS = (1, 4, 2, 2, 4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    causal = {"causal": tiny_pipeline.write_v1_3(models / "causal", "i2v", causal=True)}
    return {task: tiny_pipeline.write_v1_3(models / task, task) for task in ("t2v", "i2v")} | causal


def loaded(folder, kind, **options):
    pipe = kind.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def t2v(folders):
    return loaded(folders["t2v"], TextToVideoPipeline, jit="off")


@pytest.fixture(scope="module")
def i2v(folders):
    return loaded(folders["i2v"], ImageToVideoPipeline, jit="off")


def picture(seed=0, height=16, width=32):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def shown(i2v, noise_strength=0.0, seed=0, **frames):
    """A request with given frames."""
    request = Request.of(i2v.index, "a red cat", seed=seed, **SIZE)
    return request.showing(i2v.index, given_frames(SHAPE, i2v.index.fps, **frames), noise_strength)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_sampling_written_out(t2v, scale):
    """Sampling around the model, recomputed in float64: v-prediction, guidance, and the steps of diffusers'
    `EulerAncestralDiscreteScheduler`, with which Open-Sora Plan v1.3.0 samples. The noise of the steps continues the
    clip's RandomState. The start has sigma 4096, so 1e-4 of that is four digits."""
    positive, negative = template_for("v1.3").apply("a red cat")
    texts = [negative, positive] if scale > 1 else [positive]
    ids, mask = t2v.tokenizer(texts)
    states = t2v.text_encoder(Tensor(ids), Tensor(mask)).expand_dims(1)
    rng = np.random.RandomState(9)
    steps = [999, 499]  # trailing: 1000 and 500, less 1
    abar = t2v.scheduler.alphas_cumprod().astype(np.float64)
    sigmas = [np.sqrt(2.0**24 - 1), np.sqrt((1 - abar[499]) / abar[499]), 0.0]
    x = rng.standard_normal(LATENTS).astype(np.float32) * sigmas[0]
    for t, now, after in zip(steps, sigmas, sigmas[1:]):
        rows = np.repeat(x / np.sqrt(now**2 + 1), len(texts), 0).astype(np.float32)
        v = t2v.transformer(Tensor(rows), Tensor(np.full(len(texts), t, np.float32)), states, None, None, Tensor(mask))
        v = v.asnumpy().astype(np.float64)
        v = v[:1] + scale * (v[1:] - v[:1]) if scale > 1 else v
        x0 = x / (now**2 + 1) - v * now / np.sqrt(now**2 + 1)
        up = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        x = x + (x - x0) / now * (np.sqrt(after**2 - up**2) - now) + up * rng.standard_normal(LATENTS)
    latents = t2v("a red cat", guidance_scale=scale, seed=9, output_type="latent", **SIZE).frames
    np.testing.assert_allclose(latents, x, rtol=0, atol=2e-3)
    assert np.abs(x).max() > 0.5


def test_clip_of_a_batch_is_the_clip_alone(t2v, i2v):
    """Byte for byte, with noise in every step and on the given frames."""
    arguments = {"images": [(picture(), 0)], "noise_strength": 0.2}
    for pipe, given in ((t2v, {}), (i2v, arguments)):
        batch = pipe(prompt=["fog", "a red cat"], num_videos_per_prompt=2, seed=3, **SIZE, **given).frames
        np.testing.assert_array_equal(batch[2:3], pipe(prompt="a red cat", seed=5, **SIZE, **given).frames)
        assert np.abs(batch[2] - batch[3]).max() > 1e-3


@pytest.mark.full
def test_graph_equals_pynative(folders, i2v):
    """Within 1e-4: float32 sums in another order through 4 blocks and 2 steps."""
    graph = loaded(folders["i2v"], ImageToVideoPipeline)
    arguments = {"images": [(picture(), 0)], "seed": 5, **SIZE}
    np.testing.assert_allclose(
        graph(prompt="fog", **arguments).frames, i2v(prompt="fog", **arguments).frames, rtol=0, atol=1e-4
    )


COUNT = """
import sys
import numpy as np
from mindsora.runtime import Runtime
Runtime(device="CPU").apply()
from mindsora import ImageToVideoPipeline
pipe = ImageToVideoPipeline.from_pretrained(sys.argv[1])
picture = np.zeros((16, 16, 3), np.uint8)
for prompt, options in (
    ("a red cat", {}),
    ("two blue dogs run over a green hill in the rain", {"images": [(picture, 0)], "num_inference_steps": 2}),
    ("fog", {"images": [(picture, 0), (picture + 200, -1)], "noise_strength": 0.1, "guidance_scale": 7.0}),
    ("fog", {"guidance_scale": 1.0}),
    ("fog", {"num_frames": 9}),
)[:int(sys.argv[3])]:
    pipe(prompt=prompt, **{"num_frames": int(sys.argv[2]), "height": 16, "width": 16, "num_inference_steps": 1} | options)
    print("[CALL DONE]", file=sys.stderr, flush=True)
"""


# The last two calls have one row: another text encoder and denoiser; another length: another denoiser and decoder.
@pytest.mark.full
@pytest.mark.parametrize("model, frames, graphs", [("i2v", 5, [3, 0, 0, 2, 2]), ("causal", 17, [3, 0, 0])])
def test_graphs(folders, model, frames, graphs):
    """Text encoder, denoiser and decoder compile once, as planned, a CausalVAE's decoder with all its chunks; other
    given frames add no compilation. The counts come from MindSpore's own log."""
    root = str(Path(__file__).parents[1])
    env = os.environ | {"GLOG_v": "2", "MS_SUBMODULE_LOG_v": "{PIPELINE:1}", "PYTHONPATH": root}
    command = [sys.executable, "-c", COUNT, folders[model], str(frames), str(len(graphs))]
    log = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert log.returncode == 0, log.stdout[-4000:]
    counts = [part.count("] Start compiling '") for part in log.stdout.split("[CALL DONE]")[:-1]]
    assert counts == graphs
    assert plan(folders[model], (frames, 16, 16))["graphs"] == {"encode_prompt": 1, "denoise": 1, "decode": 1}


# Given frames


@pytest.mark.parametrize(
    "frames, times",
    [
        ({}, ()),
        ({"images": [(picture(), 0)]}, (0,)),
        ({"images": [(picture(), 0), (picture(1), -1)]}, (0, 4)),
        ({"images": [(picture(), "0.25s")]}, (2,)),
        ({"video": np.stack([picture(i) for i in range(4)]), "keep": 3}, (0, 1, 2)),
    ],
    ids=["text", "first", "transition", "between", "continuation"],
)
def test_given_frames_as_the_denoiser_takes_them(i2v, frames, times):
    """Latents of the masked video, encoded whole, shifted and scaled as the denoiser's own; and the mask, exactly."""
    given = given_frames(SHAPE, i2v.index.fps, **frames)
    request = shown(i2v, **frames)
    assert given.times == times and (request.given.times if times else request.given) == (times or None)
    encoded = i2v.encode_frames(request).asnumpy()
    z = i2v.vae.encode(Tensor(given.masked_video())).mode().asnumpy()
    scale, shift = np.array([(0.5, 1, 1.5, 2), (0.1, 0, -0.1, 0.2)], np.float32).reshape(2, 1, 4, 1, 1, 1)
    np.testing.assert_allclose(encoded[:, :4], (z - shift) * scale, rtol=0, atol=1e-5)  # chunks: sums in another order
    np.testing.assert_array_equal(encoded[:, 4:], given.latent_mask((4, 8, 8)))


def test_given_frames_in_tiles(i2v, monkeypatch):
    """They are encoded in tiles if the autoencoder tiles; whole and tiled encodings are kept apart."""
    request = replace(shown(i2v, images=[(picture(), 0)]), num_inference_steps=1)
    requests = [replace(request, tile=tile) for tile in (None, Tiling(16), Tiling(16))]
    z = i2v.vae.encode(Tensor(requests[0].given.masked_video()), chunked=True, tile=Tiling(16)).mode()
    encoded = i2v.encode_frames(requests[1]).asnumpy()
    np.testing.assert_array_equal(encoded[:, :4], i2v.vae.normalise_latents(z).asnumpy())
    assert np.abs(encoded - i2v.encode_frames(requests[0]).asnumpy()).max() > 1e-3
    tiles, encode = [], i2v.encode_frames
    monkeypatch.setattr(i2v, "encode_frames", lambda request: tiles.append(request.tile) or encode(request))
    list(i2v.sample(requests))
    assert tiles == [None, Tiling(16)]


class Recorder(nn.Cell):
    """Replaces the denoiser: records its inputs and predicts zero."""

    def construct(self, x, timestep, text, pooled, attention_mask, mask):
        self.seen = x.asnumpy(), text.asnumpy()
        return x[:, :4] * 0


def test_guidance_doubles_what_is_given(i2v, monkeypatch):
    """Both rows see the same latents, masked latents and mask, with different texts. One row without guidance."""
    denoiser, request = Recorder(), shown(i2v, images=[(picture(), 0)])
    frames = i2v.encode_frames(request).asnumpy()
    for scale, name, cell, rows in ((4.0, "_guided", _GuidedVelocity, 2), (1.0, "_unguided", _Velocity, 1)):
        monkeypatch.setattr(i2v, name, cell(denoiser))
        seen = []
        (latents,) = i2v.sample(
            [replace(request, guidance_scale=scale, num_inference_steps=1)],
            lambda pipe, step, timestep, state, seen=seen: seen.append(denoiser.seen),
        )
        ((x, text),) = seen
        noise = np.random.RandomState(0).standard_normal(LATENTS).astype(np.float32)
        assert x.shape == (rows, 12, 2, 2, 4) and latents.shape == LATENTS
        for row in x:
            np.testing.assert_allclose(row[:4], noise[0], rtol=0, atol=1e-5)  # scaled to what the model was trained on
            np.testing.assert_array_equal(row[4:], frames[0])  # not scaled
        assert rows == 1 or np.abs(text[0] - text[1]).max() > 0.01


def test_what_is_given_counts(i2v):
    arguments = {"seed": 1, "num_inference_steps": 1, "output_type": "latent", **SIZE}
    clips = [
        i2v(prompt="fog", images=images, **arguments).frames
        for images in ([], [(picture(), 0)], [(picture(1), 0)], [(picture(), -1)])
    ]
    for i, a in enumerate(clips):
        assert all(np.abs(a - b).max() > 1e-4 for b in clips[:i])


def test_given_frames_are_encoded_once(i2v, monkeypatch):
    """Encoded once for all clips; with noise, which depends on the clip's seed, once for each seed."""
    encoded, encode = [], i2v.encode_frames
    monkeypatch.setattr(i2v, "encode_frames", lambda request: encoded.append(request.seed) or encode(request))
    for strength, seeds in ((0.0, [0]), (0.1, [0, 1])):
        request = shown(i2v, strength, images=[(picture(), 0)])
        list(i2v.sample([replace(request, seed=seed, num_inference_steps=1) for seed in (0, 1, 1)]))
        assert encoded == seeds
        encoded.clear()


def test_the_task_is_said_plainly(i2v, monkeypatch):
    requests = []
    monkeypatch.setattr(i2v, "generate", lambda request, *rest: requests.append(request))
    first, last = Image.fromarray(picture(0, 40, 50)), picture(1)
    for arguments in (
        {},
        {"images": [(first, 0)]},
        {"images": [(first, None), (last, None)]},
        {"images": [(first, 2), (last, "0.5s")]},
        {"video": np.stack([last] * 6)},
    ):
        i2v(prompt="fog", **arguments, **SIZE)
    tasks = [request.given and request.given.task for request in requests]
    assert tasks == [None, "i2v", "transition", "random_temporal", "continuation"]
    assert requests[1].given.pixels.shape == (1, 16, 32, 3)


@pytest.mark.parametrize("latents", [1, 4, 5, 8, 24])
def test_4x8x8_decodes_in_pieces_exactly(t2v, latents):
    """Within 1e-5 of the whole clip, 93 frames included, where upstream is wrong: sums in another order."""
    z = Tensor(np.random.RandomState(0).standard_normal((1, 4, latents, 2, 2)).astype(np.float32))
    whole = t2v.vae.decode(t2v.vae.denormalise_latents(z)).asnumpy()
    frames = t2v.decode(z)
    assert frames.shape[1] == 4 * latents - 3
    np.testing.assert_allclose(frames, np.clip(whole / 2 + 0.5, 0, 1).transpose(0, 2, 3, 4, 1), rtol=0, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "task, kind, given, jit, limit",
    [
        ("t2v", TextToVideoPipeline, {}, "O0", 1e-5),
        ("i2v", ImageToVideoPipeline, {"images": [(picture(), 0)]}, "off", 0),
    ],
    ids=["t2v-graph", "i2v"],
)
def test_with_a_causalvae(tmp_path, task, kind, given, jit, limit):
    """Two chunks, tiled or not, equal PyNative's and the whole clip's within 1e-5: sums in another order."""
    folder = tiny_pipeline.write_v1_3(tmp_path / "causal", task, causal=True)
    pipe = loaded(folder, kind, jit=jit)
    eager = loaded(folder, kind, jit="off")  # one step costs less than compiling it
    z = eager(prompt="fog", num_inference_steps=1, output_type="latent", **SIZE | {"num_frames": 17}, **given).frames
    assert z.shape == (1, 4, 5, 2, 4)
    latents = pipe.vae.denormalise_latents(Tensor(z))
    for tile in (None, Tiling(16)):
        frames = (pipe.vae.decode(latents, chunked=True, tile=tile).asnumpy() / 2 + 0.5).clip(0, 1)
        np.testing.assert_allclose(pipe.decode(Tensor(z), tile), frames.transpose(0, 2, 3, 4, 1), rtol=0, atol=limit)
    whole = (pipe.vae.decode(latents).asnumpy() / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 4, 1)
    np.testing.assert_allclose(pipe.decode(Tensor(z)), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"images": [(picture(), 5)]}, ["time 5", "nearest legal: 4"]),
        ({"images": [(picture(), 0), (picture(), 0)]}, ["frame 0 is given twice"]),
        ({"images": [(picture(height=16, width=400), 0)]}, ["400 x 16", "crop it"]),
        ({"images": [("none.png", 0)]}, ["none.png", "does not exist"]),
        ({"images": [(picture(), 0)], "video": picture()[None]}, ["either"]),
        ({"images": [(picture(), 0)], "fit": "stretch"}, ["'stretch'", "cover or pad"]),
        ({"images": [(picture(), 0)], "noise_strength": 1.5}, ["noise_strength = 1.5", "nearest legal: 1"]),
        ({"images": [(picture(), 0)], "noise_strength": float("nan")}, ["noise_strength = nan"]),
        ({"noise_strength": 0.5}, ["noise_strength = 0.5", "none are given"]),
        ({"images": ["cat.png"]}, ["'cat.png'", "(picture, time)"]),
        ({"images": "cat.png"}, ["'cat.png'", "(picture, time)"]),
        ({"images": [picture()]}, ["ndarray", "(picture, time)"]),
        ({"keep": 3}, ["keep", "no video"]),
        ({"video": np.stack([picture()] * 9), "keep": 2.0}, ["keep = 2.0", "whole number"]),
        ({"video": np.stack([picture()] * 9), "keep": 5}, ["5 frames", "nearest legal: 4"]),
        ({"num_frames": 6}, ["num_frames = 6", "1 + 4k"]),
    ],
)
def test_bad_calls(i2v, arguments, words):
    with pytest.raises(InputError) as error:
        i2v(prompt="fog", **SIZE | arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_frames_of_another_clip(i2v, t2v):
    given = given_frames((9, 16, 32), 8, [(picture(), 0)])
    with pytest.raises(InputError, match=r"clip of \(9, 16, 32\), the request is for \(5, 16, 32\)"):
        Request.of(i2v.index, "fog", **SIZE).showing(i2v.index, given)
    with pytest.raises(InputError, match="OpenSoraT2V takes text alone: use a model with OpenSoraInpaint"):
        Request.of(t2v.index, "fog", **SIZE).showing(t2v.index, given_frames(SHAPE, 8, [(picture(), 0)]))


# Folders


def edit(path: Path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    "task, kind, words",
    [
        ("i2v", TextToVideoPipeline, ["OpenSoraInpaint", "can be shown frames", "use mindsora.ImageToVideoPipeline"]),
        ("t2v", ImageToVideoPipeline, ["OpenSoraT2V", "text alone", "use mindsora.TextToVideoPipeline"]),
    ],
)
def test_a_model_of_the_other_task(folders, task, kind, words):
    with pytest.raises(InputError) as error:
        kind.from_pretrained(folders[task])
    assert all(word in str(error.value) for word in (*words, str(folders[task])))


@pytest.mark.parametrize(
    "damage, words",
    [
        (
            lambda f, t2v: shutil.copytree(t2v / "transformer", f / "transformer", dirs_exist_ok=True),
            [
                "transformer/config.json",
                "configuration of OpenSoraT2V",
                "says OpenSoraInpaint",
                "'OpenSoraT2V'] in model_",
            ],
        ),
        (
            lambda f, t2v: shutil.copy(t2v / WEIGHTS, f / WEIGHTS),
            ["weights of OpenSoraT2V", "says OpenSoraInpaint", "right checkpoint"],
        ),
        (
            lambda f, t2v: edit(f / "model_index.json", text_encoder_2=["mindsora", "CLIPTextModel"]),
            ["text_encoder_2", "OpenSoraInpaint has none"],
        ),
        (
            lambda f, t2v: edit(f / "model_index.json", scheduler=["mindsora", "FlowMatchScheduler"]),
            ["FlowMatchScheduler", "must be ['mindsora', 'VPredictionScheduler']"],
        ),
        (
            lambda f, t2v: edit(f / "model_index.json", vae=["mindsora", "SUV"]),
            ["'WFVAE'] or ['mindsora', 'CausalVAE']"],
        ),
        (lambda f, t2v: edit(f / "model_index.json", vae=["mindsora", "CausalVAE"]), ["vae/config.json", "of WFVAE"]),
        (
            lambda f, t2v: edit(f / "model_index.json", transformer=["mindsora", "DiT"]),
            ["'DiT'", "'SUV'", "'OpenSoraT2V'"],
        ),
        (lambda f, t2v: edit(f / "model_index.json", scheduler=None), ["lacks scheduler"]),
        (lambda f, t2v: edit(f / "model_index.json", max_text_lengths=[40, 48]), ["max_text_lengths", "must be 1"]),
        (lambda f, t2v: edit(f / "model_index.json", max_text_lengths=40), ["max_text_lengths = 40"]),
        (lambda f, t2v: edit(f / "model_index.json", vae_stride=[8, 8, 8]), ["temporal stride", "8 and 4"]),
        (lambda f, t2v: edit(f / "transformer/config.json", vae_scale_factor_t=8), ["vae_scale_factor_t", "8 and 4"]),
        (
            lambda f, t2v: edit(f / "scheduler/scheduler_config.json", prediction_type="epsilon"),
            ["scheduler_config.json", "epsilon"],
        ),
    ],
    ids=range(13),
)
def test_damaged_folders(folders, tmp_path, damage, words):
    copy = shutil.copytree(folders["i2v"], tmp_path / "copy")
    damage(copy, folders["t2v"])
    with pytest.raises(InputError) as error:
        ImageToVideoPipeline.from_pretrained(copy)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_dtype_of_a_component_that_is_not_there(folders):
    with pytest.raises(InputError, match="'text_encoder_2'; components: transformer, vae, text_encoder"):
        ImageToVideoPipeline.from_pretrained(folders["i2v"], dtype={"text_encoder_2": "float16"})


# The command

OPTIONS = ("--num-frames", "5", "--height", "16", "--width", "32", "--steps", "1", "--jit", "off", "--quiet")


@pytest.fixture
def here(folders, tmp_path, monkeypatch):
    """A folder with two pictures and a video."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(picture(seed, 20, 40)).save(name)
    export_to_video(np.stack([picture(i, 32, 64) for i in range(9)]), "v.mp4", fps=8)
    return tmp_path


def generate(folder, *arguments) -> int:
    return cli.main(["generate", "fog", "--model", str(folder), *OPTIONS, *arguments])


def test_command(folders, here, capsys):
    """Pictures at their times, a manifest that records them, and a rerun from it, which refuses other files."""
    given = ["--image", "a.png", "--image", "b.png@0.5s", "--fit", "pad", "--noise-strength", "0.1"]
    assert generate(folders["i2v"], "--output", "out.mp4", "--seed", "4", *given) == 0
    told = manifest.read("out.mp4.json")["request"]["given"]
    assert told["images"] == [["a.png", None], ["b.png", "0.5s"]] and told["times"] == [0, 4]
    assert (told["video"], told["keep"], told["fit"], told["noise_strength"]) == (None, None, "pad", 0.1)
    assert told["sha256"] == {name: file_sha256(Path(name)) for name in ("a.png", "b.png")}
    assert list(manifest.read("out.mp4.json")["stack"]["dtypes"]) == ["transformer", "vae", "text_encoder"]
    assert cli.main(["rerun", "out.mp4.json", "--quiet"]) == 0
    Image.fromarray(picture(2, 20, 40)).save("b.png")
    assert generate(folders["i2v"], "--output", "other.mp4", "--seed", "4", *given) == 0
    capsys.readouterr()
    assert cli.main(["diff", "out.mp4.json", "other.mp4.json"]) == 1
    assert "request.given.sha256.b.png: " in capsys.readouterr().out
    assert cli.main(["rerun", "out.mp4.json"]) == 2
    assert "given file 'b.png' has changed" in capsys.readouterr().err
    Path("a.png").unlink()
    assert cli.main(["rerun", "out.mp4.json"]) == 2
    assert "given file 'a.png' is not there any more" in capsys.readouterr().err


def test_command_goes_on_from_a_video(folders, here, monkeypatch):
    monkeypatch.setattr(media, "read_video", lambda *arguments, **options: pytest.fail("held at its own size"))
    assert generate(folders["i2v"], "--output", "out.mp4", "--video", "v.mp4", "--keep", "3") == 0
    told = manifest.read("out.mp4.json")["request"]["given"]
    assert (told["video"], told["keep"], told["times"], told["images"]) == ("v.mp4", 3, [0, 1, 2], [])


def test_command_in_tiles(folders, here, capsys):
    """Given frames and clip are tiled; the manifest records it, and only the same tiles reproduce the frames."""
    given = ["--seed", "4", "--image", "a.png"]
    assert generate(folders["i2v"], "--output", "whole.mp4", *given) == 0
    assert generate(folders["i2v"], "--output", "tiled.mp4", "--tile", "16", *given) == 0
    whole, tiled = (manifest.read(f"{name}.mp4.json") for name in ("whole", "tiled"))
    assert tiled["request"] == whole["request"] | {"tile": 16} and "tile" not in whole["request"]
    assert tiled["result"]["frames_sha256"] != whole["result"]["frames_sha256"]
    assert cli.main(["rerun", "tiled.mp4.json", "--quiet"]) == 0
    assert generate(folders["i2v"], "--output", "bad.mp4", "--tile", "20") == 2
    assert "tile size = 20" in capsys.readouterr().err


def test_command_with_text_alone(folders, here):
    """Both kinds of model; the manifest says nothing about frames."""
    for task in ("t2v", "i2v"):
        assert generate(folders[task], "--output", f"{task}.mp4") == 0
        assert "given" not in manifest.read(f"{task}.mp4.json")["request"]


def test_pictures_from_a_config_file(folders, here):
    """A list of several, or a single one; pictures on the command line override them."""
    Path("config.yaml").write_text("image: [a.png, b.png@-1]\n")
    arguments = ["--output", "out.mp4", "--config", "config.yaml"]
    for more, images in (([], [["a.png", None], ["b.png", "-1"]]), (["--image", "b.png@1"], [["b.png", "1"]])):
        assert generate(folders["i2v"], *arguments, *more) == 0
        assert manifest.read("out.mp4.json")["request"]["given"]["images"] == images


@pytest.mark.parametrize(
    "task, arguments, words",
    [
        ("t2v", ["--image", "a.png"], ["--image 'a.png'", "OpenSoraT2V takes text alone", "OpenSoraInpaint"]),
        ("t2v", ["--video", "v.mp4"], ["--video 'v.mp4'", "OpenSoraInpaint"]),
        ("i2v", ["--image", "none.png"], ["none.png", "does not exist"]),
        ("i2v", ["--image", "a.png@9"], ["time 9", "nearest legal: 4"]),
        ("i2v", ["--image", "a.png@soon"], ["'soon'", "1.5s"]),
        ("i2v", ["--image", "v.mp4"], ["v.mp4", "none of PNG"]),
        ("i2v", ["--image", "a.png", "--image", "b.png", "--image", "a.png"], ["picture 3 of 3"]),
        ("i2v", ["--image", "a.png", "--video", "v.mp4"], ["either"]),
        ("i2v", ["--image", "a.png", "--keep", "2"], ["keep", "no video"]),
        ("i2v", ["--keep", "2"], ["keep", "no video"]),
        ("i2v", ["--video", "none.mp4"], ["none.mp4", "does not exist"]),
        ("i2v", ["--video", "v.mp4", "--keep", "5"], ["5 frames", "nearest legal: 4"]),
        ("i2v", ["--fit", "pad"], ["--fit pad", "--image or --video"]),
        ("i2v", ["--image", "a.png", "--fit", "stretch"], ["stretch"]),
        ("i2v", ["--image", "a.png", "--noise-strength", "2"], ["noise_strength = 2"]),
        ("i2v", ["--noise-strength", "0.5"], ["noise_strength = 0.5", "none are given"]),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_command_refuses(folders, here, capsys, monkeypatch, task, arguments, words):
    """Refused before the model is loaded, with one line and nothing written."""
    for kind in (ImageToVideoPipeline, TextToVideoPipeline):
        monkeypatch.setattr(kind, "from_pretrained", lambda *arguments, **options: pytest.fail("loaded"))
    before = set(here.iterdir())
    assert generate(folders[task], "--output", "out.mp4", *arguments) == 2
    captured = capsys.readouterr()
    assert all(word in captured.err for word in words), captured.err
    assert not captured.out and len(captured.err.splitlines()) == 1 and set(here.iterdir()) == before


@pytest.mark.full
def test_half_precision_is_near(folders, i2v):
    """float16 denoiser and text: latents within 0.05 of float32's, some ten roundings (2^-11) of values around 4."""
    dtype = {"transformer": "float16", "text_encoder": "float16"}
    half = loaded(folders["i2v"], ImageToVideoPipeline, jit="off", dtype=dtype)
    arguments = {"images": [(picture(), 0)], "seed": 5, "output_type": "latent", **SIZE}
    assert half.encode_frames(shown(i2v, images=[(picture(), 0)])).dtype == ms.float16
    latents = half(prompt="fog", **arguments).frames
    assert latents.dtype == np.float32
    np.testing.assert_allclose(latents, i2v(prompt="fog", **arguments).frames, rtol=0, atol=0.05)
