"""Stages on real files in miniature: their batches, their loss, their exported model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor
from safetensors.numpy import load_file
from stage_files import tiny, write_files

from mindsora import ImageToVideoPipeline, TextToVideoPipeline
from mindsora.config import read_json
from mindsora.data.clips import open_clips
from mindsora.data.frame_masks import compress, name_task
from mindsora.data.loading import load
from mindsora.errors import InputError
from mindsora.train import train
from mindsora.train.encoders import Encoders
from mindsora.train.methods.stage import StageBatches, masked_clips, objective_of
from mindsora.train.recipe import FrameMasks


@pytest.fixture(scope="module")
def suv(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "suv")


@pytest.fixture(scope="module")
def t2v(tmp_path_factory):
    return tiny_pipeline.write_v1_3(tmp_path_factory.mktemp("models") / "t2v", "t2v")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write_files(folder, pictures=4)
    return folder


def batches_of(recipe, encoders):
    return StageBatches(recipe, open_clips(recipe.data, recipe.line), encoders, objective_of(recipe))


def first(batches, number=0):
    """Batch `number` as it is loaded, and as the loss gets it."""
    ((_, arrays),) = batches(range(number, number + 1))
    return arrays, [one.asnumpy() for one in batches.encoded(*map(Tensor, arrays))]


@pytest.mark.full
def test_a_batch_of_v1_5_is_what_the_pipeline_would_encode(suv, files):
    recipe = tiny("v1_5", "video_1", files, suv, "data.frames=17", "data.caption_drop=0")
    encoders = Encoders(str(suv))
    batches = batches_of(recipe, encoders)
    (pixels, posterior, noise, *_), (x0, given, level, text, mask, pooled) = first(batches)
    assert pixels.shape == (2, 3, 17, 32, 32) and x0.shape == given.shape == (2, 4, 3, 4, 4) and level.shape == (2,)
    pipe = TextToVideoPipeline.from_pretrained(suv, jit="off")
    clips = pipe.vae.encode(Tensor(pixels)).sample(Tensor(posterior))
    # float16 keeps 11 bits of moments, which are below 4 here; the scale is at most 2.
    np.testing.assert_allclose(x0, pipe.vae.normalise_latents(clips).asnumpy(), atol=1e-2)
    np.testing.assert_array_equal(given, noise)
    ((_, batch),) = load(batches.clips, batches.order, range(1), 1)
    for row, caption in enumerate(batch.captions):
        condition = pipe.encode_prompt(f"{caption}", guided=False)
        tokens = condition.attention_mask.asnumpy().sum()
        assert tokens >= mask[row].sum() > 3  # the pipeline's template adds words
    assert mask.shape == (2, 1, 40) and text.shape == (2, 1, 40, 24) and pooled.shape == (2, 1, 20)
    assert not text[mask == 0].any() and text[mask == 1].any()


def test_every_batch_is_a_function_of_its_number(suv, files):
    recipe = tiny("v1_5", "video_1", files, suv, "data.frames=9")
    batches = batches_of(recipe, Encoders(str(suv)))
    one, two = (dict(batches(numbers)) for numbers in (range(0, 5), range(3, 5)))
    for number in two:
        for left, right in zip(one[number], two[number], strict=True):
            np.testing.assert_array_equal(left, right)


def test_pictures_and_clips_come_in_batches_of_one_bucket(t2v, mixed):
    recipe = tiny("v1_3", "t2v_2", mixed, t2v, "data.frames=9")
    batches = batches_of(recipe, Encoders(str(t2v)))
    assert batches.clips.counts() == {"9x32x32": 4, "1x32x32": 4}
    shapes = {arrays[0].shape[2] for _, arrays in batches(range(4))}
    assert shapes == {1, 9}


def test_masks_are_drawn_anew_in_every_step(t2v, files):
    batches = batches_of(tiny("v1_3", "i2v_1_6", files, t2v, "data.frames=9"), Encoders(str(t2v)))
    drawn = set()
    for _, arrays in batches(range(12)):
        hidden, mask = arrays[6:8]
        assert mask.shape[1:3] == (4, (hidden.shape[2] - 1) // 4 + 1)
        drawn.add(mask.tobytes())
    assert len(drawn) > 5


@pytest.mark.full
def test_the_denoiser_is_given_the_hidden_clip_and_the_mask(t2v, files):
    batches = batches_of(tiny("v1_3", "i2v_1_6", files, t2v, "data.frames=9"), Encoders(str(t2v)))
    arrays, given = first(batches)
    assert given[5].shape == (2, 4 + 4, *given[0].shape[2:])  # latents of the hidden clip, and the mask's channels
    np.testing.assert_array_equal(given[5][:, 4:], arrays[7])


@pytest.mark.parametrize("task", ["i2v", "transition", "continuation", "clear", "t2iv"])
def test_hidden_frames_are_black_and_the_mask_says_which(task, files):
    video = np.random.default_rng(0).uniform(-0.9, 0.9, (3, 9, 16, 16, 3)).astype(np.float32)
    data = tiny("v1_3", "t2v_2", files, files, "data.frames=9").data
    pixels, small = masked_clips(video, FrameMasks({task: 1.0}), data, np.random.default_rng(1), (0, 0))
    for clip, hidden, mask in zip(video.transpose(0, 4, 1, 2, 3), pixels, small, strict=True):
        black = (hidden == -1).all((0, 2, 3))
        given = tuple(np.flatnonzero(~black))
        assert name_task(given, 9) == task or (task == "continuation" and given == tuple(range(len(given))))
        full = np.broadcast_to(black[None, None, :, None, None], (1, 1, 9, 16, 16)).astype(np.float32)
        np.testing.assert_array_equal(mask, compress(full, (4, 8, 8))[0])
        difference = (hidden - clip)[:, ~black]
        assert not difference.size or 0 <= difference.std() < 0.4  # noise of about 0.05 on what is given


TRAIN = """
import sys
from pathlib import Path
import conftest
from stage_files import tiny
from mindsora.train import train
files, encoders, out = map(Path, sys.argv[1:])
places = f"run.out={out}", f"run.export={out / 'model'}"
train(tiny("v1_5", "video_1", files, encoders, "data.frames=9", "run.steps=5", "run.save_every=1", *places))
"""


@pytest.mark.slow
def test_a_stage_killed_in_the_middle_of_an_epoch_ends_with_the_bits_of_an_unbroken_one(tmp_path, files, suv):
    """Two steps to an epoch of four real clips; SIGKILL falls after the third."""
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}

    def begin(out):
        return subprocess.Popen([sys.executable, "-c", TRAIN, files, suv, out], env=environment)

    assert begin(tmp_path / "unbroken").wait() == 0
    process = begin(tmp_path / "killed")
    while process.poll() is None and not (tmp_path / "killed" / "state_00000003.safetensors").exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert begin(tmp_path / "killed").wait() == 0
    expected, actual = (load_file(tmp_path / name / "state_00000005.safetensors") for name in ("unbroken", "killed"))
    assert expected.keys() == actual.keys()
    for name in expected:
        assert expected[name].tobytes() == actual[name].tobytes(), name


LINES = {
    "flow matching": ("v1_5", "video_1", "suv"),
    "v-prediction": ("v1_3", "t2v_3", "t2v"),
    "inpainting": ("v1_3", "i2v_1_6", "t2v"),
}


@pytest.mark.full
@pytest.mark.parametrize("method", LINES)
def test_a_stage_trains_and_its_model_generates(method, tmp_path, files, request):
    """Two steps on real files; the exported folder opens in the pipeline, with the trained weights."""
    line, name, source = LINES[method]
    encoders = request.getfixturevalue(source)
    places = f"run.out={tmp_path / 'out'}", f"run.export={tmp_path / 'model'}"
    hooks = [f"validation={files / 'merge.txt'}", "run.validate_every=2"]
    hooks += ["run.sample_every=3"] if method == "flow matching" else []
    train(tiny(line, name, files, encoders, "data.frames=9", "run.steps=3", *places, *hooks))
    assert (tmp_path / "out" / "samples" / "00000003.mp4").exists() == (method == "flow matching")
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3] and all(0 < row["loss"] < 10 for row in losses)
    measured = [row for row in rows if "validation/level_0.5" in row]
    assert [row["step"] for row in measured] == [2, 3]
    assert len(measured[0]) == 6 and all(np.isfinite(list(row.values())).all() for row in measured)
    index = read_json(tmp_path / "model" / "model_index.json")
    assert (index["num_frames"], index["height"], index["fps"]) == (9, 32, 8)
    pipeline = ImageToVideoPipeline if method == "inpainting" else TextToVideoPipeline
    pipe = pipeline.from_pretrained(tmp_path / "model", jit="off")
    frames = pipe(prompt="noise", num_inference_steps=1, seed=0).frames
    assert frames.shape == (1, 9, 32, 32, 3) and np.isfinite(frames).all()


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.frame_stride=4", "data.frame_stride = 4: the autoencoder has 8"),
        ("transformer.in_channels=9", "transformer.in_channels = 9: the other parts need 4"),
        ("encoders=nowhere", "no model 'nowhere'"),
        ("cache=nowhere", "no features there"),
    ],
)
def test_what_does_not_fit_is_named_before_training(override, message, suv, files):
    with pytest.raises(InputError, match=message):
        train(tiny("v1_5", "video_1", files, suv, "data.frames=9", override))
