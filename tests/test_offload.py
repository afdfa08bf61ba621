"""Offload reads layers from their files one at a time: same frames, memory of one layer, one graph for each kind."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
import tiny_pipeline
from mindspore import Parameter, Tensor
from PIL import Image
from test_pipeline import WEIGHTS, copy, drop_tensor, folder, shard, truncate  # noqa: F401 (fixtures among them)

from mindsora import ImageToVideoPipeline, TextToVideoPipeline, ckpt_convert, cli, manifest
from mindsora.errors import InputError
from mindsora.models import T5Encoder, registry
from mindsora.nn.precision import set_precision
from mindsora.pipelines import components, offload

ROOT = Path(__file__).parents[1]
PROMPT = "a red cat"
PICTURE = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)


def load(model, kind=TextToVideoPipeline, **options):
    pipe = kind.from_pretrained(model, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def v1_3(tmp_path_factory):
    return tiny_pipeline.write_v1_3(tmp_path_factory.mktemp("models") / "v1_3", "t2v")


@pytest.fixture(scope="module")
def i2v(tmp_path_factory):
    return tiny_pipeline.write_v1_3(tmp_path_factory.mktemp("models") / "i2v", "i2v")


# The same numbers


@pytest.mark.parametrize(
    "name, jit",
    [
        pytest.param("folder", "O0", marks=pytest.mark.full),
        ("folder", "off"),
        pytest.param("v1_3", "O0", marks=pytest.mark.full),
        ("v1_3", "off"),
    ],
)
def test_latents_are_the_same(request, name, jit):
    """Frames are equal byte for byte, with and without guidance, in a first call and in a later one after overwrites."""
    whole, streamed = (load(request.getfixturevalue(name), jit=jit, offload=offload) for offload in (False, True))
    for scale in (3.0, 1.0, 3.0):
        expected, result = (
            pipe(PROMPT, guidance_scale=scale, seed=5, output_type="latent").frames for pipe in (whole, streamed)
        )
        np.testing.assert_array_equal(result, expected)
    assert streamed.seconds.keys() == {"encode_prompt", "denoise"}  # no extra call to compile: it would read it all


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_in_one_type_computed_in_another(tmp_path, stored, dtype):
    """UMT5, whose blocks have a bias table each, with wo in float32 under float16."""
    config = tiny_pipeline.CONFIGS["text_encoder"][1] | {"model_type": "umt5", "num_layers": 3}
    ms.set_seed(1)
    ckpt_convert.save(T5Encoder.from_upstream(config), tmp_path / "model.safetensors", stored)
    tiny_pipeline.write_json(tmp_path / "config.json", config)
    ids = Tensor(np.arange(14, dtype=np.int32).reshape(2, 7) ** 2)
    whole, streamed = (
        set_precision(components.build(tmp_path, registry.spec("T5Encoder")), getattr(ms, dtype)) for _ in range(2)
    )
    expected = ckpt_convert.load(whole, tmp_path).set_train(False)(ids)
    result = offload.stream(streamed.set_train(False), tmp_path, "off")(ids)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.asnumpy(), expected.asnumpy())


def test_inpainting_denoiser(tmp_path):
    model, config = tiny_pipeline.TASKS["i2v"]
    ms.set_seed(2)
    ckpt_convert.save(model.from_upstream(config), tmp_path / "model.safetensors")
    tiny_pipeline.write_json(tmp_path / "config.json", config)
    rng = np.random.RandomState(0)
    shapes = (1, 12, 2, 4, 6), (1,), (1, 1, 5, 24)
    inputs = [Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    expected = ckpt_convert.load(components.build(tmp_path, registry.spec(model.__name__)), tmp_path).set_train(False)(
        *inputs
    )
    streamed = offload.stream(
        components.build(tmp_path, registry.spec(model.__name__)).set_train(False), tmp_path, "O0"
    )
    np.testing.assert_array_equal(streamed(*inputs).asnumpy(), expected.asnumpy())


def test_given_frames(i2v):
    pipes = [load(i2v, ImageToVideoPipeline, jit="off", offload=offload) for offload in (False, True)]
    arguments = {"num_frames": 5, "height": 16, "width": 16, "seed": 5}
    expected, result = (pipe(prompt=PROMPT, images=[(PICTURE, 0)], **arguments).frames for pipe in pipes)
    np.testing.assert_array_equal(result, expected)
    assert (pipes[1](prompt=PROMPT, **arguments).frames != expected).any()  # so the given frames have an effect


def test_sharded_weights(folder, copy):  # noqa: F811
    shard(copy)
    expected = load(folder, jit="off")(PROMPT, num_inference_steps=1, output_type="latent").frames
    streamed = load(copy, jit="off", offload=True)
    np.testing.assert_array_equal(streamed(PROMPT, num_inference_steps=1, output_type="latent").frames, expected)


# Memory


def with_values() -> list[Parameter]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Parameter) and not thing.has_init]


@pytest.mark.full
def test_memory_is_that_of_one_layer(folder):  # noqa: F811
    """After a call the VAE's parameters have values, and of the other components those that `held` counts: one layer
    and everything outside layers."""
    before = with_values()
    known = {id(p) for p in before}
    pipe = load(folder, jit="off", offload=True)
    pipe(PROMPT, num_inference_steps=1)
    allocated = sum(p.size for p in with_values() if id(p) not in known)
    kept = {"vae": sum(p.size for p in pipe.vae.get_parameters())}
    for name, (model, _) in tiny_pipeline.CONFIGS.items():
        if name != "vae":
            kept[name] = sum(
                p.size for p in offload.held(components.build(folder / name, registry.spec(model.__name__)))
            )
    assert allocated == sum(kept.values())

    def size(cell):
        return sum(p.size for p in cell.get_parameters())

    suv = components.build(folder / "transformer", registry.spec("SUV"))
    blocks = [size(block) for stage in suv.transformer_blocks for block in stage]  # the last one has no text half
    (skip,) = {size(layer) for layer in (*suv.skip_norm_linear, *suv.skip_norm_linear_enc)}
    assert len(blocks) == 6 and blocks[-1] < blocks[0] == max(blocks)
    assert kept["transformer"] == size(suv) - sum(blocks[1:]) - skip  # of 6 and of 2 layers, one


def test_only_the_rows_of_the_prompt_are_read(folder, monkeypatch):  # noqa: F811
    pipe = load(folder, jit="off", offload=True)
    read, original = [], ckpt_convert.Entry.numpy
    monkeypatch.setattr(ckpt_convert.Entry, "numpy", lambda self: read.append(self.name) or original(self))
    pipe.encode_prompt(PROMPT)
    assert "encoder.block.1.layer.0.SelfAttention.q.weight" in read
    assert not {"shared.weight", "text_model.embeddings.token_embedding.weight"} & set(read)


def test_files_are_closed(folder):  # noqa: F811
    def opened():
        gc.collect()
        links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        return sorted(path for path in links if path.endswith(".safetensors"))

    already = opened()
    pipe = load(folder, jit="off", offload=True)
    assert len(opened()) == len(already) + 3
    del pipe
    assert opened() == already


# Graphs

COUNT = """
import json, sys
from mindsora.runtime import Runtime
Runtime(device="CPU").apply()
from mindsora import TextToVideoPipeline
pipe = TextToVideoPipeline.from_pretrained(sys.argv[1], offload=True)
for prompt, options in json.loads(sys.argv[2]):
    pipe(prompt=prompt, num_inference_steps=1, height=16, width=16, **options)
    print("[CALL DONE]", file=sys.stderr, flush=True)
"""


@pytest.mark.full
@pytest.mark.parametrize("name, layers", [("folder", 9), ("v1_3", 5)])
def test_graphs(request, name, layers):
    """There is one graph for each kind of layer, whatever their number, and the decoder's; none for the rest.

    v1.5: SUV's blocks are dense or sparse, single or group, and the last has no text: 5; its skips have two shapes, of
    the video and of the text; T5's and CLIP's blocks. v1.3: 4 kinds of blocks and T5's.
    """
    calls = [(PROMPT, {}), ("fog", {"seed": 1, "guidance_scale": 7.0})]
    env = os.environ | {"GLOG_v": "2", "MS_SUBMODULE_LOG_v": "{PIPELINE:1}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COUNT, request.getfixturevalue(name), json.dumps(calls)]
    log = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    parts = log.stdout.split("[CALL DONE]")[:-1]
    assert [part.count("] Start compiling '") for part in parts] == [layers + 1, 0]


@pytest.mark.full
def test_graphs_from_the_compile_cache(v1_3, tmp_path):
    """Cached graphs find the parameters that layers share: a second process compiles nothing and gives equal frames."""
    env = os.environ | {"GLOG_v": "2", "PYTHONPATH": str(ROOT)}
    sums, read = [], []
    for name in ("a.mp4", "b.mp4"):
        command = [
            sys.executable,
            "-m",
            "mindsora.cli",
            "generate",
            PROMPT,
            "--model",
            v1_3,
            "--output",
            name,
            "--steps",
            "1",
            "--offload",
            "--compile-cache",
            "cache",
        ]
        log = subprocess.run(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        read.append(log.stdout.count("Use the compilation cache"))
        sums.append(json.loads((tmp_path / f"{name}.json").read_text())["result"]["frames_sha256"])
    assert read == [0, 6] and sums[0] == sums[1]


# Refused input


def test_torch_checkpoint(folder, copy):  # noqa: F811
    """The error names a command, and that command works."""
    source = copy / "text_encoder" / "model.safetensors"
    ckpt_convert.convert(source, copy / "text_encoder" / "pytorch_model.pt")
    source.unlink()
    load(copy, jit="off")  # it loads without offload
    with pytest.raises(InputError) as error:
        load(copy, offload=True)
    message = str(error.value)
    assert all(word in message for word in ("text_encoder", "torch zip", "safetensors", "`mindsora convert "))
    command = message.split("`")[1].split()
    assert cli.main([*command[1:-1], str(copy / "new")]) == 0
    shutil.rmtree(copy / "text_encoder")
    shutil.move(copy / "new", copy / "text_encoder")
    load(copy, offload=True)


@pytest.mark.parametrize("damage, word", [(drop_tensor, "missing"), (truncate, "cut off")])
def test_damaged_checkpoints(copy, damage, word):  # noqa: F811
    damage(copy)
    with pytest.raises(InputError, match=word):
        load(copy, offload=True)


def test_file_that_becomes_shorter(copy):  # noqa: F811
    """The file shrinks while the pipeline reads from it."""
    pipe = load(copy, jit="off", offload=True)
    with open(copy / WEIGHTS, "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(InputError, match="became shorter while it was read"):
        pipe(PROMPT, num_inference_steps=1)


# The command line and the planner


@pytest.mark.parametrize(
    "name, options",
    [
        ("folder", []),
        ("i2v", ["--image", "cat.png", "--num-frames", "5", "--height", "16", "--width", "16", "--duration", "1"]),
    ],
)
def test_generate(request, name, options, tmp_path, monkeypatch):
    """The same frames, by their checksums, also in windows; manifests say which way, and reruns go the same way."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURE).save("cat.png")
    arguments = ["--model", str(request.getfixturevalue(name)), "--steps", "1", "--jit", "off", *options]
    made = []
    for output, command in (
        ("whole.mp4", ["generate", PROMPT, *arguments]),
        ("layers.mp4", ["generate", PROMPT, *arguments, "--offload"]),
        ("whole-again.mp4", ["rerun", "whole.mp4.json"]),
        ("layers-again.mp4", ["rerun", "layers.mp4.json"]),
    ):
        assert cli.main([*command, "--output", output, "--quiet"]) == 0
        told = manifest.read(f"{output}.json")
        made.append((told["stack"]["offload"], told["result"]["frames_sha256"]))
    frames = made[0][1]
    assert made == [(False, frames), (True, frames)] * 2
    assert name == "folder" or told["request"]["long_video"]["windows"] == 2


@pytest.mark.full
def test_benchmark():
    """Its small form: the model is written, generates, and is set beside the plan."""
    command = [sys.executable, ROOT / "benchmarks/offload.py", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["frames"], found["height"], found["width"], found["steps"]) == (5, 32, 32, 2)
    assert found["peak_mib"] == max(found["peak_by_phase_mib"].values()) > 300
    assert found["planned_mib"] < found["planned_mib_without_offload"]
