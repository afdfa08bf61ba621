"""Fine-tuning: a tiny model from a folder of clips, interrupted and resumed, a LoRA or all weights; and its judge."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from safetensors.numpy import load_file
from test_offload import load

from mindsora import ImageToVideoPipeline, TextToVideoPipeline, cli
from mindsora.ckpt_convert.lora import FILE, read_lora
from mindsora.data.toy import orange
from mindsora.data.toy.procedural import COLOURS, MOTIONS, PAINT, SHAPES
from mindsora.errors import InputError
from mindsora.evaluate import obedience
from mindsora.evaluate.measure import measure
from mindsora.evaluate.orange import PROMPTS, frozen_prompts
from mindsora.media import export_to_video
from mindsora.train.finetune import MODEL, TRAINING, FineTuning, _clips, _encode, finetune
from mindsora.train.methods.few_clips import encode_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips that are large enough, one that is not, one without caption, one that is no video."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.RandomState(0)
    for number, size in enumerate(((32, 48), (48, 64), (40, 48))):
        export_to_video(rng.randint(0, 256, (20, *size, 3)).astype(np.uint8), folder / f"{number}.mp4", fps=8)
        (folder / f"{number}.txt").write_text(f"a red cat, number {number}")
    shutil.copy(folder / "0.mp4", folder / "nameless.mp4")
    (folder / "broken.mp4").write_text("no video")
    (folder / "broken.txt").write_text("a broken file")
    return folder


def asked(model, clips, output, **options):
    return FineTuning(str(model), str(clips), str(output), **{"steps": 2, "rank": 2, "batch": 2} | options)


def latents(pipe):
    return pipe("a red cat", num_frames=1, num_inference_steps=1, output_type="latent").frames


@pytest.mark.full
def test_lora_from_a_folder(model, clips, tmp_path, capsys):
    """The command names clips that it leaves out, and goes on where it stopped; the result loads."""
    out, options = tmp_path / "out", ["--rank", "2", "--batch", "2", "--lr", "0.01", "--device", "CPU"]
    command = ["finetune", "--model", str(model), "--data", str(clips), "--output", str(out), *options]
    assert cli.main([*command, "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 clips of 9 x 32 x 48" in said and "nameless.mp4" in said and "broken.mp4" in said
    assert "too few pixels once cropped" in said and "2.mp4" in said
    assert cli.main([*command, "--steps", "2"]) == 0
    assert f"mindsora generate PROMPT --model {model} --lora {out / FILE}" in capsys.readouterr().out
    rows = [json.loads(line)["step"] for line in (out / TRAINING / "log.jsonl").read_text().splitlines()]
    assert rows == [1, 2]
    with pytest.raises(InputError, match="was written by another recipe"):
        finetune(asked(model, clips, out, rank=3))
    updates = read_lora(out)
    unmoved = [layer for layer, update in updates.items() if not update.up.any()]
    assert len(updates) == 47 and unmoved == ["transformer_blocks.2.1.attn1.add_q_proj"]  # its result is never read
    pipe = load(model, jit="off")
    base = latents(pipe)
    pipe.load_lora_weights(out)
    assert np.abs(latents(pipe) - base).max() > 0


@pytest.mark.parametrize(
    "kind", [pytest.param("i2v", marks=pytest.mark.full), pytest.param("t2v", marks=pytest.mark.slow)]
)
def test_lora_of_v1_3(clips, tmp_path, kind):
    model = tiny_pipeline.write_v1_3(tmp_path / "model", kind)
    finetune(asked(model, clips, tmp_path / "out"))
    pipe = load(model, ImageToVideoPipeline if kind == "i2v" else TextToVideoPipeline, jit="off")
    pipe.load_lora_weights(tmp_path / "out")
    assert len(read_lora(tmp_path / "out")) == 32


@pytest.mark.full
def test_what_the_model_draws_is_trained_on_too(model, clips, tmp_path):
    """Prior preservation: the clips of `keep` come from the model before it is trained, each with its prompt."""
    (tmp_path / "keep.txt").write_text("a blue dog\na green bird\n")
    asked_for = asked(model, clips, tmp_path / "out", keep=str(tmp_path / "keep.txt"))
    pipe, line = load(model), "v1.5"
    encoded = _encode(pipe, _clips(asked_for, pipe.index, line), ["a blue dog", "a green bird"])
    own = len(encoded.mean) - 2
    texts = {number for several in encoded.text[:own] for number in several}
    assert own >= 2 and texts == {0, 1} and list(encoded.text[own:]) == [[2], [3]]
    assert len(encoded.conditions[0]) == 5  # four captions and the empty one
    frames = pipe("a green bird", num_frames=9, height=32, width=48, seed=1).frames[0]
    np.testing.assert_allclose(encoded.mean[-1], encode_clip(pipe.vae, 2 * frames - 1)[0], atol=1e-5)


@pytest.mark.full
def test_all_weights(model, clips, tmp_path):
    """The new folder is a whole model, in which the denoiser alone has changed."""
    target = finetune(asked(model, clips, tmp_path / "out", full=True))
    assert target == tmp_path / "out" / MODEL
    files = {path.relative_to(model): path.read_bytes() for path in Path(model).rglob("*") if path.is_file()}
    assert {path.relative_to(target) for path in target.rglob("*") if path.is_file()} == files.keys()
    changed = {path for path, content in files.items() if (target / path).read_bytes() != content}
    assert changed <= {Path("transformer/diffusion_pytorch_model.safetensors"), Path("model_index.json")}
    before, after = (
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors") for folder in (model, target)
    )
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before) and all(after[name].dtype == before[name].dtype for name in before)
    assert np.isfinite(latents(load(target, jit="off"))).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 32}, "LoRA rank 32: must be from 1 to 31"),
        ({"targets": ("to_w",)}, "LoRA target 'to_w'"),
        ({"num_frames": 10}, "10"),
        ({"alpha": 0}, "alpha = 0: must be above 0, or left out"),
        ({"batch": -1}, "batch = -1: must be above 0"),
        ({"keep": "nowhere.txt"}, "prompt file 'nowhere.txt' does not exist"),
        ({"height": 64, "width": 64}, "no clip is left to train on"),
        ({"data": "nowhere"}, "'nowhere' is no folder"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, clips, tmp_path, options, message):
    options = {"data": str(clips)} | options
    with pytest.raises(InputError, match=message):
        finetune(FineTuning(str(model), options.pop("data"), str(tmp_path / "out"), **options))
    assert not (tmp_path / "out" / FILE).exists()


@pytest.mark.full
def test_models_of_v1_2_are_refused(clips, tmp_path):
    model = tiny_pipeline.write_v1_2(tmp_path / "model", "t2v")
    with pytest.raises(InputError, match="has EpsilonScheduler; models of v1.5 and v1.3 are fine-tuned here"):
        finetune(asked(model, clips, tmp_path / "out"))


# The judge of the new colour


def test_the_frozen_prompts_are_not_those_of_the_clips():
    content = obedience.read_prompts(PROMPTS)
    assert content == frozen_prompts()
    taught, held_out = orange.things(True), orange.things(False)
    assert not set(taught) & set(held_out) and len(taught) + len(held_out) == 31
    for part in (taught, held_out):
        assert {thing.shape for thing in part} == set(SHAPES) and {thing.motion for thing in part} == set(MOTIONS)
    assert {(row["shape"], row["motion"]) for row in content["prompts"]} == {
        (t.shape, t.motion) for t in taught + held_out
    }
    captions = [text for number in range(orange.CLIPS) for text in orange.clip(number)[1].splitlines()]
    assert len(captions) == 3 * orange.CLIPS
    assert all("orange" in text.lower() and "a orange" not in text for text in captions)
    assert not {row["prompt"] for row in content["prompts"]} & set(captions)


@pytest.mark.full
def test_the_judge_knows_the_colours():
    """On ground truth every colour is named right, orange among its neighbours; shuffled labels score as chance."""
    rng, right, shuffled = np.random.RandomState(0), [], []
    from mindsora.data.toy.procedural import BACKGROUNDS, Thing, render

    names = [colour for _ in range(4) for colour in PAINT]
    for number, (colour, other) in enumerate(zip(names, rng.permutation(names), strict=True)):
        background = tuple(BACKGROUNDS)[number % len(BACKGROUNDS)]
        video = render((Thing(SHAPES[number % 4], colour, "still"),), background, np.random.RandomState(number))
        noisy = (video + rng.normal(0, 8, video.shape)).clip(0, 255).astype(np.uint8)
        named = measure(noisy, colours=PAINT).colour
        right.append(named == colour)
        shuffled.append(named == other)
    assert all(right) and np.mean(shuffled) < 0.4  # chance is 1 in 7
    for number in range(orange.CLIPS):
        assert measure(orange.clip(number)[0], colours=PAINT).colour == "orange"
    assert measure(orange.clip(0)[0]).colour in COLOURS  # the frozen measurement names one of its own six
