"""SUV against upstream's SparseUMMDiT (numbers in tests/golden, tolerance 1e-4: float32 sums in another order)."""

import json
import re

import mindspore as ms
import numpy as np
import pytest
import suv_twin
from cell_checks import check_released_shapes, check_training_gradients, count_compiled_graphs
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from mindsora.ckpt_convert import load, save, upstream_state
from mindsora.errors import InputError
from mindsora.models.suv.model import SUV, Block, SUVConfig, sanitise
from mindsora.models.suv.names import TABLE
from mindsora.nn.precision import set_precision
from mindsora.nn.rope import rope_tensors, split_v1_5

FIXTURES = (
    "suv_small_video",
    "suv_small_image",
    "suv_sparse8",
    "suv_head32_pad_video",
    "suv_small_zero_init_skip",
    "suv_video_mask",
    "suv_single_ff",
)
ARGUMENTS = (
    "hidden_states",
    "timestep",
    "encoder_hidden_states",
    "pooled_projections",
    "attention_mask",
    "encoder_attention_mask",
)
SMALL = {
    "num_layers": [2, 2, 2],
    "sparse_n": [1, 2, 1],
    "num_heads": 2,
    "head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "timestep_embed_dim": 24,
    "caption_channels": 20,
    "pooled_projection_dim": 28,
}
# Nothing uses the last block's text queries: the block does not compute its text output.
NO_GRADIENT = ("2.1.attn1.add_q_proj.weight", "2.1.attn1.add_q_proj.bias", "2.1.attn1.norm_added_q.weight")


def inputs(golden):
    return [golden.tensor(name) for name in ARGUMENTS]


def small_inputs(frames=2, seed=0):
    random = np.random.RandomState(seed)
    shapes = (2, 4, frames, 6, 6), (2,), (2, 1, 5, 20), (2, 1, 28)
    arrays = [random.randn(*shape).astype(np.float32) for shape in shapes]
    arrays[1] = np.array([37.5, 900], np.float32)
    mask = np.array([[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1]]], np.int32)
    return [Tensor(a) for a in arrays] + [None, Tensor(mask)]


@pytest.mark.parametrize("name", FIXTURES)
def test_velocity_matches_upstream(name, run):
    golden = Golden(name)
    suv = load(SUV.from_upstream(golden.config), golden.weights)
    arguments = inputs(golden)
    if golden.inputs["attention_mask"].all():  # the fast path, without a video mask
        arguments[4] = None
    assert_close(run(suv, *arguments), golden.outputs["sample"], 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", ["suv_sparse8", "suv_video_mask"])
def test_the_definitions_of_the_operators_match_upstream_too(name, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "reference")
    golden = Golden(name)
    suv = load(SUV.from_upstream(golden.config), golden.weights)
    assert_close(suv(*inputs(golden)), golden.outputs["sample"], 1e-4)


@pytest.mark.parametrize("name", ["suv_head32_pad_video"])
def test_a_mask_of_ones_changes_nothing(name, run):
    golden = Golden(name)
    suv = load(SUV.from_upstream(golden.config), golden.weights)
    assert_close(run(suv, *inputs(golden)), golden.outputs["sample"], 1e-4)


def recorded(suv, golden):
    """Return the outputs, in one call, of the Cells that upstream's intermediate outputs are named after."""
    seen = {}
    last = len(suv.transformer_blocks) - 1

    def record(cell, *names):
        def hook(cell, inputs, outputs):
            seen.update(zip(names, outputs if isinstance(outputs, tuple) else (outputs,)))

        cell.register_forward_hook(hook)

    for name in ("patch_embed", "time_text_embed", "caption_projection", "norm_final", "norm_out", "proj_out"):
        record(getattr(suv, name), name)
    norm = [f"block0_norm1_{part}" for part in ("hidden", "encoder", "gate", "gate_encoder")]
    record(suv.transformer_blocks[0][0].norm1, *norm)
    record(suv.transformer_blocks[0][0].attn1, "block0_attn1_hidden", "block0_attn1_encoder")
    for b in range(2):
        record(suv.transformer_blocks[1][b].attn1, f"stage1_block{b}_attn1_hidden", f"stage1_block{b}_attn1_encoder")
    for s in range(last + 1):
        record(suv.transformer_blocks[s][-1], f"stage{s}_hidden", f"stage{s}_encoder")
    for j in range(last // 2):
        record(suv.skip_norm_linear[j], f"skip{j}_hidden")
        record(suv.skip_norm_linear_enc[j], f"skip{j}_encoder")
    suv(*inputs(golden))
    return seen


@pytest.mark.parametrize("name", FIXTURES)
def test_every_stage_matches_upstream(name):
    golden = Golden(name)
    suv = load(SUV.from_upstream(golden.config), golden.weights)
    seen = recorded(suv, golden)
    assert seen.keys() == golden.outputs.keys() - {"sample"}
    unread = {"sample"}
    if not golden.config["double_ff"]:  # upstream's last block still updates the text stream here; nothing reads it
        unread.add(f"stage{len(suv.transformer_blocks) - 1}_encoder")
    for key in seen.keys() - unread:
        assert_close(seen[key].reshape(golden.outputs[key].shape), golden.outputs[key], 1e-4)


def test_the_twin_is_right():
    """The NumPy reference of other tests equals upstream."""
    for name in ("suv_sparse8", "suv_single_ff"):
        golden = Golden(name)
        arrays = [golden.inputs[key] for key in ARGUMENTS if key != "attention_mask"]
        velocity = suv_twin.suv(golden.weights, golden.config, *arrays, np.float64)
        assert_close(velocity, golden.outputs["sample"], 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("group", [False, True])
def test_block_at_released_width(group):
    """3072 = 24 x 128 channels, n = 8: 96 tokens in 128 places, against float64. In PyNative and graph."""
    config = SUVConfig()
    with no_init_parameters():
        block = Block(config, sparse_n=8, group=group, text_output=True)
    random = np.random.default_rng(int(group))
    weights = {}
    for parameter in block.get_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim == 2 else 100
        value = random.standard_normal(parameter.shape, np.float32) / np.float32(np.sqrt(fan_in))
        if re.search(r"norm\w*\.weight", parameter.name):
            value += 1
        parameter.set_data(Tensor(value))
        weights[TABLE.upstream_name(f"block.{parameter.name}")] = value
    grid = (2, 6, 8)
    x, y = random.standard_normal((1, 96, 3072), np.float32), random.standard_normal((1, 8, 3072), np.float32)
    temb = random.standard_normal((1, 1024), np.float32)
    rope = rope_tensors(grid, split_v1_5(128), (1.0, 1.0, 1.0))
    c = Tensor((temb / (1 + np.exp(-temb))).astype(np.float32))
    inputs = Tensor(x), Tensor(y), c, rope, Tensor(np.array([5], np.int32)), None
    wide = {name: value.astype(np.float64) for name, value in weights.items()}
    streams = (a.astype(np.float64) for a in (x, y, temb))
    expected = suv_twin.block(wide, "block", *streams, grid, [5], 24, 8, group, last=False)
    for actual in (block(*inputs), ms.jit(block)(*inputs)):
        for a, b in zip(actual, expected):
            assert_close(a, b, 1e-4)  # float32 sums of 12288 terms


@pytest.mark.full
def test_training_gradients():
    golden = Golden("suv_head32_pad_video")  # weights large enough for every gradient to stand out
    suv = load(SUV.from_upstream(golden.config), golden.weights)
    arguments = inputs(golden)
    arguments[4] = None
    target = Tensor(np.random.RandomState(1).randn(*golden.outputs["sample"].shape).astype(np.float32))
    check_training_gradients(suv, arguments, target, cancelled=NO_GRADIENT)


def test_gradient_is_the_slope():
    """The gradient, hand-written parts included, predicts how the loss changes along a random direction."""
    ms.set_seed(0)
    suv = SUV.from_upstream(SMALL)
    arguments = small_inputs()
    random = np.random.RandomState(2)
    target = Tensor(random.randn(2, 4, 2, 6, 6).astype(np.float32))
    parameters = suv.trainable_params()

    def loss():
        return (suv(*arguments) * target).mean()

    gradients = ms.grad(loss, None, parameters)()
    start = [p.asnumpy().copy() for p in parameters]
    for which in (r".*norm.*weight", r".*norm\d\.linear.*", r".*to_[qk].weight", r".*"):
        chosen = [i for i, p in enumerate(parameters) if re.fullmatch(which, p.name)]
        directions = {i: random.randn(*start[i].shape).astype(np.float32) for i in chosen}
        slope = sum((directions[i].astype(np.float64) * gradients[i].asnumpy()).sum() for i in chosen)
        values = []
        for step in (1e-3, -1e-3):
            for i in chosen:
                parameters[i].set_data(Tensor(start[i] + np.float32(step) * directions[i]))
            values.append(float(loss().asnumpy()))
        for i in chosen:
            parameters[i].set_data(Tensor(start[i]))
        # 2 %: the third-order term of the central difference, and float32 losses
        assert abs((values[0] - values[1]) / 2e-3 - slope) < 0.02 * abs(slope) + 1e-3, which


@pytest.mark.parametrize("tp", [1, 8])
def test_released_shapes(tp):
    released = json.loads((FOLDER / "keys" / f"suv_v1_5_tp{tp}.json").read_text())
    with no_init_parameters():
        suv = SUV(SUVConfig(last_block_text=tp > 1))
    check_released_shapes(suv, released["shapes"], released["parameters"])
    assert len(list(suv.get_parameters())) == released["tensors"]


def test_six_tensors_of_a_tensor_parallel_checkpoint(tmp_path):
    """Without the last block's text half they are ignored, and only they; with it they are kept; the result is one."""
    ms.set_seed(0)
    whole = SUV(SUVConfig(**SMALL, last_block_text=True))
    state = upstream_state(whole)
    part = load(SUV.from_upstream(SMALL), state)
    assert len(state) - len(upstream_state(part)) == 6
    np.testing.assert_array_equal(whole(*small_inputs()).asnumpy(), part(*small_inputs()).asnumpy())
    with pytest.raises(InputError, match="2.1.attn1.to_add_out.weight"):
        load(SUV(SUVConfig(**SMALL, last_block_text=True)), upstream_state(part))
    with pytest.raises(InputError, match="unexpected .'transformer_blocks.2.0.extra.weight'"):
        load(part, state | {"transformer_blocks.2.0.extra.weight": np.zeros(1)})
    save(whole, tmp_path / "whole.safetensors")
    again = load(SUV(SUVConfig(**SMALL, last_block_text=True)), tmp_path / "whole.safetensors")
    for key, value in upstream_state(again).items():
        np.testing.assert_array_equal(value, state[key])


def test_skips_start_as_the_identity_on_the_current_stream():
    suv = SUV.from_upstream(SMALL)
    x, skip = (Tensor(np.random.RandomState(i).randn(1, 3, 32).astype(np.float32)) for i in range(2))
    for linear in (suv.skip_norm_linear[0], suv.skip_norm_linear_enc[0]):
        np.testing.assert_array_equal(linear(x, skip).asnumpy(), x.asnumpy())


def test_odd_rows_and_columns_are_lost():
    ms.set_seed(0)
    suv = SUV.from_upstream(SMALL)
    arguments = small_inputs()
    even = suv(*arguments).asnumpy()
    padded = np.pad(arguments[0].asnumpy(), [(0, 0)] * 3 + [(0, 1)] * 2, constant_values=7)
    np.testing.assert_array_equal(suv(Tensor(padded), *arguments[1:]).asnumpy(), even)


@pytest.mark.parametrize("name", ["suv_head32_pad_video", "suv_small_video"])
def test_float16_is_no_worse_than_plain_float16(name, run):
    golden = Golden(name)
    expected = golden.outputs["sample"]
    with no_init_parameters():
        suv = SUV.from_upstream(golden.config)
    suv = load(set_precision(suv, ms.float16), golden.weights)
    arguments = inputs(golden)
    arguments[4] = None
    velocity = run(suv, *arguments)
    assert velocity.dtype == ms.float16
    arrays = [golden.inputs[key] for key in ARGUMENTS if key != "attention_mask"]
    plain = np.abs(suv_twin.suv(golden.weights, golden.config, *arrays, np.float16) - expected).max()
    ours = np.abs(velocity.asnumpy().astype(np.float32) - expected).max()
    assert ours <= 2 * plain, (ours, plain)


def test_float16_streams_are_sanitised_at_inference_only():
    broken = np.array([[[np.nan, np.inf, -np.inf, 1.5]]], np.float16)
    np.testing.assert_array_equal(sanitise(Tensor(broken)).asnumpy(), np.float16([[[0, 65504, -65504, 1.5]]]))
    with no_init_parameters():
        suv = SUV.from_upstream(SMALL)
    suv = load(set_precision(suv, ms.float16), upstream_state(SUV.from_upstream(SMALL)))
    suv.caption_projection.bias.set_data(Tensor(np.full(32, np.inf, np.float16)))  # an overflowed text stream
    assert np.isfinite(suv(*small_inputs()).asnumpy()).all()
    suv.set_train()
    assert not np.isfinite(suv(*small_inputs()).asnumpy()).all()


@pytest.mark.full
def test_other_prompts_and_times_compile_nothing(tmp_path):
    """Prompt lengths are values, not shapes: three prompts at one size share a graph; a longer clip needs its own."""

    def batch(lengths, frames=2):
        arguments = small_inputs(frames)
        mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int32)
        ones = np.ones((2, frames, 6, 6), np.float32)
        return [a.asnumpy() for a in arguments[:4]] + [ones, mask]

    same = [batch([3, 5]), batch([1, 2]), batch([5, 5])]
    assert count_compiled_graphs(tmp_path, SUV, SMALL, same + [batch([3, 5], frames=3)]) == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_layers": [2, 2]}, ["num_layers (2, 2)", "one entry per stage"]),
        ({"num_layers": [2, 3, 2]}, ["num_layers has 3", "use 4"]),
        ({"sparse_n": [1, 0, 1]}, ["sparse_n = 0", "from 1 to 64; nearest legal: 1"]),
        ({"head_dim": 24}, ["head_dim 24", "nearest: 32"]),
        ({"timestep_embed_dim": 7}, ["timestep_embed_dim 7", "even"]),
        ({"num_head": 2}, ["'num_head'", "'num_heads'"]),
        ({"sparse1d": False}, ["sparse1d = False", "sparse1d = True"]),
    ],
)
def test_bad_configuration(change, words):
    with pytest.raises(InputError) as error:
        SUV.from_upstream(SMALL | change)
    assert all(word in str(error.value) for word in words), error.value
