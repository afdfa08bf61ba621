"""The denoisers of v1.3 and v1.2 against upstream's OpenSoraT2V_v1_3, OpenSoraInpaint_v1_3, OpenSoraT2V and
OpenSoraInpaint.

Numbers in tests/golden; tolerance 1e-4: float32 sums in another order.
"""

import mindspore as ms
import numpy as np
import opensora_twin
import pytest
from cell_checks import Loss, check_training_gradients, count_compiled_graphs
from golden_file import Golden, assert_close
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from mindsora.ckpt_convert import load
from mindsora.errors import InputError
from mindsora.models import (
    OpenSoraConfig,
    OpenSoraInpaint,
    OpenSoraInpaintConfig,
    OpenSoraInpaintV1_2,
    OpenSoraT2V,
    registry,
)
from mindsora.models.opensora import model as opensora
from mindsora.models.opensora.model import Block
from mindsora.models.opensora.names import T2V
from mindsora.nn.precision import set_precision
from mindsora.nn.rope import rope_table, rope_tensors, split_v1_3

FIXTURES = (
    "v13_t2v_small_video",
    "v13_t2v_small_image",
    "v13_t2v_video_mask",
    "v13_t2v_32layers",
    "v13_inpaint_small",
    "v13_inpaint_zero_init",
    "v12_t2v_small_video",
    "v12_t2v_small_image",
    "v12_t2v_odd_scaled",  # odd sizes; positions divided by 1, 1.5, 2
    "v12_t2v_video_mask",
    "v12_i2v_small",
    "v12_i2v_odd",
    "v12_i2v_zero_init",
)
SMALL = {
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 6,
    "in_channels": 4,
    "out_channels": 4,
    "caption_channels": 20,
}
# A bias of all keys shifts all scores of a query equally, and these keys are not rotated.
NO_GRADIENT = ("attn2.to_k.bias",)


def model(golden):
    return load(cell_of(golden).from_upstream(golden.config), golden.weights)


def cell_of(golden):
    return registry.named_upstream(golden.config["model"]).cell


def inputs(golden, mask=None):
    """Without a video mask the model takes the fast path."""
    names = "hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"
    x, timestep, text, text_mask = (golden.tensor(name) for name in names)
    return [x, timestep, text, None, mask, text_mask]


def mask_of(golden):
    """Return the video mask if it masks anything."""
    mask = golden.inputs["attention_mask"]
    return None if mask.all() else Tensor(mask)


def small_inputs(channels=4, frames=2):
    random = np.random.RandomState(0)
    x, text = random.randn(2, channels, frames, 8, 8), random.randn(2, 1, 5, 20)
    mask = np.array([[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1]]], np.int32)
    timestep = np.array([19, 999], np.int32)
    return [Tensor(x.astype(np.float32)), Tensor(timestep), Tensor(text.astype(np.float32)), None, None, Tensor(mask)]


@pytest.mark.parametrize("name", FIXTURES)
def test_sample_matches_upstream(name, run):
    golden = Golden(name)
    assert_close(run(model(golden), *inputs(golden, mask_of(golden))), golden.outputs["sample"], 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", ["v13_t2v_small_video", "v13_t2v_video_mask"])
def test_the_definitions_of_the_operators_match_upstream_too(name, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "reference")
    golden = Golden(name)
    assert_close(model(golden)(*inputs(golden, mask_of(golden))), golden.outputs["sample"], 1e-4)


def test_a_mask_of_ones_changes_nothing(run):
    golden = Golden("v13_t2v_small_video")
    assert_close(run(model(golden), *inputs(golden, golden.tensor("attention_mask"))), golden.outputs["sample"], 1e-4)


def recorded(cell, golden):
    """Return the outputs, in one call, of the Cells that upstream's intermediate outputs are named after."""
    seen = {}

    def record(part, *names):
        def hook(part, inputs, outputs):
            seen.update(zip(names, outputs if isinstance(outputs, tuple) else (outputs,)))

        part.register_forward_hook(hook)

    record(cell.patch_embed, "pos_embed")
    record(cell.caption_projection, "caption_projection")
    record(cell.adaln_single, "embedded_timestep", "adaln_modulation")
    if isinstance(cell, OpenSoraInpaint):
        grey = isinstance(cell, OpenSoraInpaintV1_2)
        record(cell.embed_grey_video if grey else cell.embed_masked_video, "embed_masked_video")
        record(cell.embed_mask, "embed_mask")
    for i, block in enumerate(cell.transformer_blocks):
        record(block, f"block{i}")
        record(block.attn1, f"block{i}_attn1")
        record(block.attn2, f"block{i}_attn2")
    cell(*inputs(golden, mask_of(golden)))
    return seen


@pytest.mark.parametrize("name", FIXTURES)
def test_every_stage_matches_upstream(name):
    golden = Golden(name)
    seen = recorded(model(golden), golden)
    assert golden.outputs.keys() - seen.keys() == {"sample"}
    for key in golden.outputs.keys() - {"sample"}:
        expected = golden.outputs[key]
        # The stream grows from block to block: 1e-4 of its standard deviation, where that is above 1.
        assert_close(seen[key].reshape(expected.shape), expected, 1e-4 * max(1, expected.std()))


def test_the_twin_is_right():
    """The NumPy reference of other tests equals upstream."""
    for name in ("v13_t2v_small_image", "v13_t2v_32layers", "v13_inpaint_small"):
        golden = Golden(name)
        assert_close(twin(golden, np.float64), golden.outputs["sample"], 1e-4)


def twin(golden, dtype, angle_dtype=np.float64):
    names = "hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"
    arrays = [golden.inputs[name] for name in names]
    return opensora_twin.opensora(golden.weights, golden.config, *arrays, dtype, angle_dtype)


@pytest.mark.parametrize("group", [False, True])
def test_block_at_released_width(group, run):
    """2304 = 24 x 96 channels, n = 4: 54 tokens in 64 places, single and group skip, against float64."""
    config = OpenSoraConfig()
    with no_init_parameters():
        block = Block(config, config.sparse_n, group)
    random = np.random.default_rng(0)
    weights = {}
    for parameter in block.get_parameters():
        fan_in = parameter.shape[-1] if parameter.name.endswith("weight") else 100
        value = random.standard_normal(parameter.shape, np.float32) / np.float32(np.sqrt(fan_in))
        parameter.set_data(Tensor(value))
        weights[T2V.upstream_name(f"block.{parameter.name}")] = value.astype(np.float64)
    grid = (3, 3, 6)
    arrays = [random.standard_normal(shape, np.float32) for shape in ((1, 54, 2304), (1, 8, 2304), (1, 6, 2304))]
    rope = rope_tensors(grid, split_v1_3(96), (1.0, 1.0, 1.0))
    actual = run(block, *map(Tensor, arrays), rope, Tensor(np.array([5], np.int32)), None)
    wide = [a.astype(np.float64) for a in arrays]
    expected = opensora_twin.block(weights, "block", *wide, grid, [5], 24, 4, group, np.float64)
    assert_close(actual, expected, 1e-4)  # float32 sums of 9216 terms


def in_float16(golden):
    with no_init_parameters():
        cell = cell_of(golden).from_upstream(golden.config)
    return load(set_precision(cell, ms.float16), golden.weights)


@pytest.mark.parametrize("name", ["v13_t2v_small_video", "v13_inpaint_small"])
def test_float16_is_no_worse_than_plain_float16(name, run):
    golden = Golden(name)
    actual = run(in_float16(golden), *inputs(golden))
    assert actual.dtype == ms.float16
    exact = twin(golden, np.float64, np.float16)
    plain = np.abs(twin(golden, np.float16, np.float16) - exact).max()
    ours = np.abs(actual.asnumpy().astype(np.float64) - exact).max()
    assert ours <= 2 * plain, (ours, plain)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=str)
def test_angles_are_rounded_to_the_dtype_of_the_model(dtype, monkeypatch):
    """Upstream does the same, and its half-precision weights expect it."""
    golden, seen = Golden("v13_t2v_small_image"), []
    rotate = opensora.qk_norm_rope

    def watched(x, rope, **settings):
        seen.append((x, rope))
        return rotate(x, rope=rope, **settings)

    monkeypatch.setattr(opensora, "qk_norm_rope", watched)
    (in_float16(golden) if dtype == ms.float16 else model(golden))(*inputs(golden))
    kind = {ms.float32: np.float32, ms.float16: np.float16}[dtype]
    tables = rope_table((1, 8, 10), (8, 8, 8), dtype=kind)
    assert len(seen) == 2 * golden.config["num_layers"]  # queries and keys
    for x, rope in seen:
        assert x.dtype == dtype
        for actual, table in zip(rope, tables):
            np.testing.assert_array_equal(actual.asnumpy(), table[None, :, None])
    assert rope_tensors((1, 8, 10), (8, 8, 8), (1.0, 1.0, 1.0), ms.bfloat16)[0].dtype == ms.bfloat16


@pytest.mark.full
def test_training_gradients():
    golden = Golden("v13_inpaint_small")
    target = Tensor(np.random.RandomState(1).randn(*golden.outputs["sample"].shape).astype(np.float32))
    check_training_gradients(model(golden), inputs(golden), target, cancelled=NO_GRADIENT)


def test_inpainting_starts_as_text_to_video():
    """Whatever it is shown; and the zero layers learn from the first step on."""
    golden = Golden("v13_t2v_small_image")
    t2v = model(golden)
    inpaint = OpenSoraInpaint.from_t2v(t2v)
    arguments = inputs(golden)
    random = np.random.RandomState(0)
    shown = random.randn(2, 4 + 4, *golden.inputs["hidden_states"].shape[2:]).astype(np.float32)
    both = Tensor(np.concatenate([golden.inputs["hidden_states"], shown], 1))
    sample = inpaint(both, *arguments[1:])
    np.testing.assert_array_equal(sample.asnumpy(), t2v(*arguments).asnumpy())
    np.testing.assert_array_equal(inpaint.embed_masked_video.patches.weight.asnumpy(), t2v.patch_embed.weight.asnumpy())
    layers = [inpaint.embed_masked_video.merge.weight, inpaint.embed_mask.merge.weight]
    target = Tensor(random.randn(*sample.shape).astype(np.float32))
    for gradient in ms.grad(Loss(inpaint), None, layers)(target, both, *arguments[1:]):
        assert np.abs(gradient.asnumpy()).max() > 0


def test_pooled_text_is_not_read():
    golden = Golden("v13_t2v_small_image")
    cell, arguments = model(golden), inputs(golden)
    without = cell(*arguments).asnumpy()
    arguments[3] = Tensor(np.ones((2, 1, 7), np.float32))
    np.testing.assert_array_equal(cell(*arguments).asnumpy(), without)


@pytest.mark.full
def test_other_prompts_and_times_compile_nothing(tmp_path):
    """Prompt lengths are values, not shapes: three prompts at one size share a graph; a longer clip needs its own."""

    def batch(lengths, timestep, frames=2):
        x, _, text, *_ = (a if a is None else a.asnumpy() for a in small_inputs(frames=frames))
        mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int32)
        pooled, ones = np.zeros((2, 1, 1), np.float32), np.ones((2, frames, 8, 8), np.float32)
        return [x, np.array(timestep, np.int32), text, pooled, ones, mask]

    same = [batch([3, 5], [999, 9]), batch([1, 2], [0, 1]), batch([5, 5], [500, 500])]
    assert count_compiled_graphs(tmp_path, OpenSoraT2V, SMALL, same + [batch([3, 5], [999, 9], frames=3)]) == 2


UPSTREAM = {  # every argument of upstream's constructors, as released, but height and width
    "num_attention_heads": 24,
    "attention_head_dim": 96,
    "in_channels": 8,
    "out_channels": 8,
    "num_layers": 32,
    "dropout": 0.0,
    "cross_attention_dim": 2304,
    "attention_bias": True,
    "sample_size_t": 24,
    "patch_size": 2,
    "patch_size_t": 1,
    "activation_fn": "gelu-approximate",
    "only_cross_attention": False,
    "double_self_attention": False,
    "upcast_attention": False,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 4096,
    "interpolation_scale_h": 1.0,
    "interpolation_scale_w": 1.0,
    "interpolation_scale_t": 1.0,
    "sparse1d": True,
    "sparse_n": 4,
}


@pytest.mark.parametrize("size", [{"sample_size_h": 80, "sample_size_w": 80}, {"sample_size": [80, 80]}])
def test_configuration_with_all_of_upstreams_keys(size):
    """The training size does not change the model; upstream's earlier classes had it under one key."""
    assert OpenSoraConfig.from_upstream(UPSTREAM | size) == OpenSoraConfig()
    inpaint = UPSTREAM | size | {"vae_scale_factor_t": 8}
    assert OpenSoraInpaintConfig.from_upstream(inpaint) == OpenSoraInpaintConfig(vae_scale_factor_t=8)
    scales = {f"interpolation_scale_{axis}": scale for axis, scale in zip("hwt", (2.0, 3.0, 0.5))}
    assert OpenSoraConfig.from_upstream(UPSTREAM | size | scales).interpolation_scale == (0.5, 2.0, 3.0)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"attention_head_dim": 16}, ["attention_head_dim 16", "nearest: 18"]),
        ({"num_layers": 0}, ["num_layers = 0", "from 1 to 512; nearest legal: 1"]),
        ({"out_channels": None}, ["out_channels = None", "of type int"]),
        ({"num_layers": "2"}, ["num_layers = '2'", "of type int"]),
        ({"num_layers": True}, ["num_layers = True", "of type int"]),
        ({"cross_attention_dim": 24}, ["cross_attention_dim 24", "2 * attention_head_dim 6 = 12"]),
        ({"num_attention_head": 2}, ["'num_attention_head'", "'num_attention_heads'"]),
        ({"norm_elementwise_affine": True}, ["norm_elementwise_affine = True", "norm_elementwise_affine = False"]),
        ({"_class_name": "OpenSoraInpaint_v1_3"}, ["configuration of OpenSoraInpaint, not of OpenSoraT2V"]),
        ({"vae_scale_factor_t": 4}, ["configuration of OpenSoraInpaint, not of OpenSoraT2V"]),
    ],
)
def test_bad_configuration(change, words):
    with pytest.raises(InputError) as error:
        OpenSoraT2V.from_upstream(SMALL | change)
    assert all(word in str(error.value) for word in words), error.value


def test_text_to_video_configuration_for_inpainting():
    with pytest.raises(InputError, match="configuration of OpenSoraT2V, not of OpenSoraInpaint"):
        OpenSoraInpaint.from_upstream(SMALL | {"_class_name": "OpenSoraT2V_v1_3"})


@pytest.mark.parametrize(
    "cell, shapes, words",
    [
        (OpenSoraT2V, {0: (2, 12, 2, 8, 8)}, ["(2, 12, 2, 8, 8)", "(B, 4, T, H, W) for OpenSoraT2V"]),
        (OpenSoraInpaint, {0: (2, 4, 2, 8, 8)}, ["(B, 12, T, H, W) for OpenSoraInpaint", "masked video, and mask"]),
        (OpenSoraT2V, {0: (2, 4, 2, 8, 1)}, ["8 x 1", "patch of 2 x 2"]),
        (OpenSoraT2V, {2: (2, 1, 5, 24)}, ["(2, 1, 5, 24)", "(B, 1, L, 20)"]),
        (OpenSoraT2V, {2: (1, 1, 5, 20)}, ["(1, 1, 5, 20)", "B = 2"]),
    ],
)
def test_bad_input(cell, shapes, words, run):
    arguments = small_inputs()
    for i, shape in shapes.items():
        arguments[i] = Tensor(np.zeros(shape, np.float32))
    with pytest.raises(InputError) as error:
        run(cell.from_upstream(SMALL), *arguments)
    assert all(word in str(error.value) for word in words), error.value
