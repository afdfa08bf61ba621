"""Calls as diffusers and mindone users write them do what today's plain call does, or say what to write instead."""

from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor
from PIL import Image

import mindsora
from mindsora import AutoModel, ImageToVideoPipeline, TextToVideoPipeline, create_model, list_models, zoo
from mindsora.ckpt_convert import upstream_state
from mindsora.errors import InputError
from mindsora.models import SUV, WFVAE, OpenSoraT2V, T5Encoder, registry
from mindsora.pipelines import foreign
from mindsora.sampling import EpsilonScheduler, FlowMatchScheduler

PROMPT = "a red cat"
SMALL = {"height": 16, "width": 16, "num_frames": 9}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny")
    index = tiny_pipeline.INDEX | {"template": "nano"}  # no words of its own, which would fill the 40 tokens
    tiny_pipeline.write_json(folder / "model_index.json", index)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return quiet(TextToVideoPipeline.from_pretrained(folder, jit="off"))


@pytest.fixture(scope="module")
def i2v(tmp_path_factory):
    folder = tiny_pipeline.write_v1_3(tmp_path_factory.mktemp("models") / "i2v", "i2v")
    return quiet(ImageToVideoPipeline.from_pretrained(folder, jit="off"))


def latents_of(pipe, **arguments):
    return pipe(**{"prompt": PROMPT, "output_type": "latent"} | SMALL | arguments).frames


@pytest.fixture(scope="module")
def plain(pipe):
    """The latents of today's plain call."""
    return latents_of(pipe, seed=5)


def noise(seed, clips=1):
    return np.random.RandomState(seed).standard_normal((clips, 4, 2, 2, 2)).astype(np.float32)


# Randomness


@pytest.mark.parametrize(
    "generator",
    [5, *(pytest.param(value, marks=pytest.mark.full) for value in (np.int64(5), np.random.RandomState(5)))],
    ids=["int", "int64", "RandomState"],
)
def test_a_generator_of_the_same_numbers_gives_the_same_clip(pipe, plain, generator):
    np.testing.assert_array_equal(latents_of(pipe, generator=generator), plain)


@pytest.mark.full
def test_a_numpy_generator_draws_the_noise_and_moves_on(pipe):
    rng = np.random.default_rng(1)
    drawn = rng.standard_normal((2, 4, 2, 2, 2)).astype(np.float32)
    expected = latents_of(pipe, latents=drawn, num_videos_per_prompt=2)
    again = np.random.default_rng(1)
    np.testing.assert_array_equal(latents_of(pipe, generator=again, num_videos_per_prompt=2), expected)
    assert again.bit_generator.state == rng.bit_generator.state


@pytest.mark.parametrize("kind", [np.asarray, pytest.param(Tensor, marks=pytest.mark.full)])
def test_latents_of_a_seed_give_its_clip(pipe, plain, kind):
    np.testing.assert_array_equal(latents_of(pipe, latents=kind(noise(5))), plain)
    assert np.abs(latents_of(pipe, latents=kind(noise(6))) - plain).max() > 0.01


@pytest.mark.full
def test_latents_of_a_seed_give_its_clip_where_steps_draw_too(i2v):
    """v1.3: a step's noise continues the seed's stream whoever drew the latents."""
    latents = np.random.RandomState(3).standard_normal((1, 4, 3, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(latents_of(i2v, seed=3, latents=latents), latents_of(i2v, seed=3))


# Encoded prompts


@pytest.mark.parametrize("scale", [pytest.param(1, marks=pytest.mark.full), 3.0])
def test_an_encoded_prompt_gives_the_clip_of_its_text(pipe, scale):
    embeds = pipe.encode_prompt(PROMPT, "dark", guided=scale > 1).arguments()
    expected = latents_of(pipe, seed=5, negative_prompt="dark", guidance_scale=scale)
    np.testing.assert_array_equal(latents_of(pipe, prompt=None, **embeds, seed=5, guidance_scale=scale), expected)


@pytest.mark.full
def test_several_encoded_prompts(pipe):
    encoded = [pipe.encode_prompt(text, "").arguments() for text in (PROMPT, "fog")]
    embeds = {name: np.concatenate([part[name].asnumpy() for part in encoded]) for name in encoded[0]}
    result = latents_of(pipe, prompt=None, **embeds, num_videos_per_prompt=2)
    np.testing.assert_array_equal(result, latents_of(pipe, prompt=[PROMPT, "fog"], num_videos_per_prompt=2))


@pytest.mark.full
def test_a_pipeline_without_its_text_encoders_takes_encoded_prompts(pipe, folder, plain):
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    lean = quiet(TextToVideoPipeline.from_pretrained(folder, jit="off", **none))
    assert lean.text_encoder is None and lean.components.keys() == {"transformer", "vae", "scheduler"}
    embeds = pipe.encode_prompt(PROMPT).arguments()
    np.testing.assert_array_equal(latents_of(lean, prompt=None, **embeds, seed=5), plain)
    with pytest.raises(InputError, match="this pipeline has no text_encoder.*give prompt_embeds"):
        latents_of(lean)
    lean = quiet(TextToVideoPipeline.from_pretrained(folder, jit="off", tokenizer=None))
    with pytest.raises(InputError, match="this pipeline has no tokenizer"):
        latents_of(lean)


@pytest.mark.full
def test_lists_of_prompts_and_negatives(pipe):
    both = latents_of(pipe, prompt=[PROMPT, "fog"], negative_prompt=["dark", "bright"], seed=2)
    np.testing.assert_array_equal(both[1:], latents_of(pipe, prompt="fog", negative_prompt="bright", seed=3))
    assert np.abs(both[1:] - latents_of(pipe, prompt="fog", negative_prompt="dark", seed=3)).max() > 1e-5


@pytest.mark.full
def test_guidance_scale_1_leaves_the_negative_prompt_out(pipe):
    bright = latents_of(pipe, guidance_scale=1, negative_prompt="bright")
    np.testing.assert_array_equal(bright, latents_of(pipe, guidance_scale=1.0))
    guided = [latents_of(pipe, guidance_scale=2.0, negative_prompt=text) for text in ("bright", "dark")]
    assert np.abs(guided[0] - guided[1]).max() > 1e-5


# Output


@pytest.mark.full
def test_output_types(pipe):
    frames = pipe(PROMPT, **SMALL, num_inference_steps=1, num_videos_per_prompt=2).frames

    def output(kind):
        return pipe(PROMPT, **SMALL, num_inference_steps=1, num_videos_per_prompt=2, output_type=kind).frames

    np.testing.assert_array_equal(output("ms").asnumpy(), frames.transpose(0, 1, 4, 2, 3))
    pictures = output("pil")
    assert [len(clip) for clip in pictures] == [9, 9] and all(p.size == (16, 16) for clip in pictures for p in clip)
    np.testing.assert_array_equal(np.array([[*map(np.asarray, clip)] for clip in pictures]), np.rint(frames * 255))
    np.testing.assert_array_equal(pipe.decode(output("latent")), frames)


def test_return_dict(pipe, plain):
    output = pipe(PROMPT, **SMALL, seed=5, output_type="latent", return_dict=False)
    assert type(output) is tuple and len(output) == 1
    np.testing.assert_array_equal(output[0], plain)


@pytest.mark.full
def test_positional_arguments_have_the_order_of_diffusers(pipe):
    ordered = pipe(PROMPT, "dark", 16, 32, 9, 1, 3.0, 1, 5, None, output_type="latent").frames
    named = {"negative_prompt": "dark", "height": 16, "width": 32, "num_frames": 9, "num_inference_steps": 1}
    np.testing.assert_array_equal(ordered, latents_of(pipe, **named, guidance_scale=3.0, seed=5))


def test_callback_with_the_names_of_its_tensors(pipe):
    seen = []

    def callback(pipeline, step, timestep, kwargs):
        seen.append((pipeline, step, *kwargs))
        return {}

    latents_of(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents"])
    assert seen == [(pipe, 0, "latents"), (pipe, 1, "latents")]


@pytest.mark.full
def test_vae_tiling_is_the_tile_of_calls_that_name_none(pipe):
    options = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 1}
    tiled, whole = (pipe(PROMPT, **options, tile=tile).frames for tile in (16, None))
    assert np.abs(tiled - whole).max() > 0
    pipe.enable_vae_tiling(16)
    np.testing.assert_array_equal(pipe(PROMPT, **options).frames, tiled)
    pipe.disable_vae_tiling()
    np.testing.assert_array_equal(pipe(PROMPT, **options).frames, whole)
    with pytest.raises(InputError, match="tile"):
        pipe.enable_vae_tiling(3)


# Image to video


def picture(level):
    return Image.new("RGB", (16, 16), (level, 40, 90))


def test_image_and_last_image_are_the_first_and_the_last_of_images(i2v):
    expected = latents_of(i2v, images=[(picture(200), 0), (picture(20), -1)])
    np.testing.assert_array_equal(latents_of(i2v, image=picture(200), last_image=picture(20)), expected)
    ordered = i2v(picture(200), PROMPT, None, 16, 16, 9, last_image=picture(20), output_type="latent")
    np.testing.assert_array_equal(ordered.frames, expected)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"image": PROMPT, "prompt": None}, "no prompt, and 'a red cat' as image: the image comes first"),
        ({"image": picture(9), "images": [(picture(9), 0)]}, "image and images are both given"),
        ({"image": [picture(9)]}, r"image takes one picture; .* images=\["),
        ({"image": picture(9), "noise_strength": 0.1, "generator": np.random.default_rng(0)}, "draws from the seed"),
        ({"strength": 0.5}, "no argument strength: give noise_strength"),
        ({"lastimage": picture(9)}, "did you mean last_image"),
    ],
)
def test_image_to_video_refuses(i2v, arguments, words):
    with pytest.raises(InputError, match=words):
        latents_of(i2v, **arguments)


# Refused by name


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"max_sequence_length": 226}, "TextToVideoPipeline has no argument max_sequence_length: the model fixes it"),
        ({"num_inference_step": 2}, "did you mean num_inference_steps"),
        ({"image": picture(1)}, "use ImageToVideoPipeline"),
        ({"output_type": "pt"}, "output_type = 'pt': must be one of np, pil, ms, latent"),
        ({"prompt": None}, "prompt = None: must be a text .*or give prompt_embeds"),
        ({"generator": object()}, "generator is builtins.object: give a whole number or numpy.random.default_rng"),
        ({"generator": [1, 2]}, r"generator is builtins.list: .*clip i of a call takes seed \+ i"),
        ({"generator": 3, "seed": 4}, "seed = 4 and generator are both given"),
        ({"latents": [1.0]}, "latents is builtins.list: give a NumPy array or a MindSpore Tensor"),
        ({"latents": noise(0, 2)}, r"latents have the shape \(2, 4, 2, 2, 2\), the call needs \(1, 4, 2, 2, 2\)"),
        ({"prompt_embeds": noise(0)[0, 0]}, "prompt_embeds without prompt_attention_mask"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "'prompt_embeds': a callback gets latents alone"),
    ],
)
def test_call_refuses(pipe, arguments, words):
    with pytest.raises(InputError, match=words):
        latents_of(pipe, **arguments)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompt": PROMPT}, "prompt and prompt_embeds are both given"),
        ({"negative_prompt": "dark"}, "negative_prompt and prompt_embeds are both given"),
        ({"negative_prompt_embeds": None, "negative_prompt_attention_mask": None, "negative_pooled_prompt_embeds": None},
         "guidance_scale = 3 needs negative_prompt_embeds"),
        ({"pooled_prompt_embeds": None}, "prompt_embeds without pooled_prompt_embeds"),
        ({"prompt_embeds": np.zeros((1, 40, 7))}, r"prompt_embeds has the shape \(1, 40, 7\), must be \(.*24\)"),
        ({"prompt_attention_mask": np.ones((1, 3))}, r"prompt_attention_mask .* must be \(1, 40\)"),
        ({"pooled_prompt_embeds": np.zeros((1, 3))}, r"pooled_prompt_embeds .* must be \(1, 20\)"),
        ({"prompt_embeds": np.zeros((2, 40, 24))}, "encoded prompts differ in number: prompt_embeds 2"),
    ],
)  # fmt: skip
def test_encoded_prompts_are_refused(pipe, change, words):
    with pytest.raises(InputError, match=words):
        latents_of(pipe, **{"prompt": None} | pipe.encode_prompt(PROMPT).arguments() | change)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"torch_dtype": "float16"}, "from_pretrained has no argument torch_dtype: give mindspore_dtype"),
        ({"device_map": "auto"}, "no argument device_map: the device belongs to the program"),
        ({"offlaod": True}, "did you mean offload"),
        ({"dtype": "fp32", "mindspore_dtype": "fp32"}, "dtype and mindspore_dtype are both given"),
        ({"vae": None}, "vae = None: a pipeline needs one"),
        ({"vae": object()}, "vae is builtins.object, but the model takes mindsora's WFVAE"),
        ({"tokenizer": object()}, "tokenizer is builtins.object, but the model takes mindsora's T5Tokenizer"),
        ({"scheduler": EpsilonScheduler()}, "the model takes mindsora's FlowMatchScheduler"),
    ],
)
def test_loading_refuses(folder, arguments, words):
    with pytest.raises(InputError, match=words):
        TextToVideoPipeline.from_pretrained(folder, jit="off", **arguments)


@pytest.mark.parametrize("name", foreign.METHODS)
def test_methods_that_are_not_here_say_what_to_write(pipe, name):
    with pytest.raises(AttributeError) as error:
        getattr(pipe, name)
    assert str(error.value) == f"TextToVideoPipeline has no {name}: {foreign.METHODS[name]}"


def test_no_name_is_both_here_and_refused(pipe):
    for kind in (TextToVideoPipeline, ImageToVideoPipeline):
        assert not [name for name in foreign.METHODS if hasattr(kind, name)]
    assert not foreign.CALL.keys() & TextToVideoPipeline._arguments()
    assert foreign.CALL.keys() & ImageToVideoPipeline._arguments() == {"image", "last_image"}
    with pytest.raises(AttributeError, match="TextToVideoPipeline has no colour$"):
        pipe.colour  # noqa: B018


# Components


def test_components_are_shared(pipe, folder, plain):
    assert pipe.components.keys() == set(zoo.COMPONENTS)
    shared = quiet(TextToVideoPipeline.from_pretrained(folder, jit="off", **pipe.components))
    assert all(getattr(shared, name) is part for name, part in pipe.components.items())
    np.testing.assert_array_equal(latents_of(shared, seed=5), plain)


@pytest.mark.full
def test_a_component_that_is_passed_in_is_used(folder, pipe):
    vae = WFVAE.from_pretrained(folder, subfolder="vae")
    for parameter in vae.get_parameters():
        parameter.set_data(parameter * 0)
    other = quiet(TextToVideoPipeline.from_pretrained(folder, jit="off", vae=vae, mindspore_dtype="float32"))
    assert other.vae is vae
    frames = other(PROMPT, **SMALL, num_inference_steps=1).frames
    np.testing.assert_array_equal(frames, np.full_like(frames, 0.5))


def test_scheduler_swap(folder, pipe, plain):
    other = quiet(TextToVideoPipeline.from_pretrained(folder, jit="off", **pipe.components))
    other.scheduler = FlowMatchScheduler.from_config(other.scheduler.config, shift=2.0)
    assert other.scheduler == FlowMatchScheduler(shift=2.0) and pipe.scheduler.config["shift"] == 7.0
    assert np.abs(latents_of(other, seed=5) - plain).max() > 1e-3
    other.scheduler = FlowMatchScheduler.from_config(pipe.scheduler.config)
    np.testing.assert_array_equal(latents_of(other, seed=5), plain)
    other.scheduler = FlowMatchScheduler.from_config(other.scheduler.config, use_linear_quadratic_schedule=True)
    with pytest.raises(InputError, match="steps"):
        latents_of(other, num_inference_steps=3)  # the new scheduler's rule
    with pytest.raises(InputError, match="unknown key 'shft'"):
        FlowMatchScheduler.from_config(other.scheduler.config, shft=2.0)
    with pytest.raises(InputError, match="scheduler is mindsora.sampling.v_prediction.EpsilonScheduler"):
        other.scheduler = EpsilonScheduler()


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.full), "float16"])
def test_save_pretrained(folder, pipe, tmp_path, dtype):
    one = TextToVideoPipeline.from_pretrained(folder, jit="off", mindspore_dtype=dtype)
    one.save_pretrained(tmp_path / "saved")
    back = quiet(TextToVideoPipeline.from_pretrained(tmp_path / "saved", jit="off", mindspore_dtype=dtype))
    assert back.index == one.index and back.scheduler == one.scheduler
    for name, cell in one.cells.items():
        assert back.cells[name].config == cell.config
        saved, own = upstream_state(back.cells[name]), upstream_state(cell)
        assert saved.keys() == own.keys() and all(np.array_equal(saved[key], own[key]) for key in own)
    texts = [PROMPT, "Two DOGS, über the hill! </s>"]
    for tokenizer, other in zip(back.tokenizers, one.tokenizers):
        assert all(np.array_equal(a, b) for a, b in zip(tokenizer(texts), other(texts)))
    with pytest.raises(InputError, match="saved' is there already: name a new folder"):
        one.save_pretrained(tmp_path / "saved")


@pytest.mark.full
def test_save_pretrained_of_v1_3(i2v, tmp_path):
    i2v.save_pretrained(tmp_path / "saved")
    back = quiet(ImageToVideoPipeline.from_pretrained(tmp_path / "saved", jit="off"))
    expected = latents_of(i2v, image=picture(200), num_inference_steps=1)
    np.testing.assert_array_equal(latents_of(back, image=picture(200), num_inference_steps=1), expected)


@pytest.mark.parametrize("row", [row for row in zoo.RELEASED if row.is_model], ids=lambda row: row.name)
def test_configurations_are_read_back(row):
    for name, kind in row.cells.items():
        spec = registry.spec(kind)
        path = zoo.CONFIGURATIONS / row.configuration / name / "config.json"
        config = spec.config.from_upstream(zoo.read_json(path))
        named = {"_class_name": spec.upstream[0]} if spec.upstream else {}
        assert spec.config.from_upstream(named | config.to_upstream()) == config


# One Cell by name


def test_a_component_by_name():
    vae = WFVAE.from_pretrained("nano", subfolder="vae")
    assert type(vae) is WFVAE and not vae.training
    assert type(AutoModel.from_pretrained("nano", subfolder="text_encoder")) is T5Encoder
    assert type(AutoModel.from_pretrained(zoo.BOX / "nano" / "vae")) is WFVAE
    for call, words in (
        (lambda: SUV.from_pretrained("nano_i2v"), "holds OpenSoraInpaint, not SUV"),
        (lambda: AutoModel.from_pretrained("nano"), "must be one of transformer, vae, text_encoder"),
        (lambda: SUV.from_pretrained("nano", subfolder="vae"), "holds WFVAE, not SUV: use WFVAE or AutoModel"),
        (lambda: WFVAE.from_pretrained("nano", mindspore_dtype="float8"), "dtype 'float8' for vae"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_list_models():
    assert list_models("*I2V*") == ["nano_i2v", "v1.3_i2v", "v1.2_93x480p_i2v"]
    assert list_models(pretrained=True) == zoo.in_the_box()
    assert "v1.3_vae" in list_models() and "v1.0" not in list_models()
    assert set(mindsora.__all__) >= {"list_models", "create_model", "AutoModel"}


@pytest.mark.full
def test_create_model():
    small = create_model("v1.3", num_layers=1, num_attention_heads=1, cross_attention_dim=96)
    assert type(small) is OpenSoraT2V and small.config.num_layers == 1 and small.config.in_channels == 8
    vae, loaded = create_model("nano", pretrained=True, component="vae"), WFVAE.from_pretrained("nano", subfolder="vae")
    states = upstream_state(vae), upstream_state(loaded)
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[1])
    from_path = create_model("nano", checkpoint_path=zoo.BOX / "nano" / "vae", component="vae")
    assert all(np.array_equal(states[1][key], value) for key, value in upstream_state(from_path).items())
    assert type(create_model("v1.3_vae", base_channels=32, encoder_energy_flow_hidden_size=8,
                             decoder_energy_flow_hidden_size=8)) is WFVAE  # fmt: skip
    for arguments, words in (
        ({"model_name": "v1.33"}, "no model 'v1.33': did you mean v1.3"),
        ({"model_name": "v1.0"}, "does not run here"),
        ({"model_name": "v1.3", "num_layer": 1}, "unknown key 'num_layer'"),
        ({"model_name": "v1.3", "component": "text_encoder_2"}, "must be one of transformer, vae, text_encoder"),
        ({"model_name": "v1.3", "pretrained": True}, "weights are not"),
        ({"model_name": "nano", "pretrained": True, "checkpoint_path": "x"}, "both given"),
    ):
        with pytest.raises(InputError, match=words):
            create_model(**arguments)


# Files


def test_export(tmp_path):
    frames = np.random.RandomState(0).randint(0, 255, (5, 16, 16, 3)).astype(np.uint8)
    for suffix in ("mp4", "gif"):
        named = mindsora.export_to_video(video_frames=frames, output_video_path=tmp_path / f"a.{suffix}", fps=8)
        listed = mindsora.export_to_video([Image.fromarray(frame) for frame in frames], tmp_path / f"b.{suffix}", 8)
        assert Path(named).read_bytes() == Path(listed).read_bytes()
    mindsora.export_to_gif(iter([frames[:2], frames[2:]]), tmp_path / "c.gif", fps=10)
    with Image.open(tmp_path / "c.gif") as gif:
        assert gif.n_frames == 5 and gif.size == (16, 16) and gif.info["loop"] == 0 and gif.info["duration"] == 100
        error = np.abs(np.asarray(gif.convert("RGB"), int) - frames[0]).mean()
    assert error < 5  # 256 colours for 256 pixels of noise: nearly every pixel has its own
    for path, fps, words in (("a.webm", 8, "must end in .mp4 or .gif"), ("a.gif", 60, "at most 50")):
        with pytest.raises(InputError, match=words):
            mindsora.export_to_video(frames, tmp_path / path, fps)
