"""T5Encoder against transformers' T5, mT5 and UMT5 encoders (numbers in tests/golden, tolerance 1e-4: sums in another
order)."""

import json

import mindspore as ms
import numpy as np
import pytest
from cell_checks import check_padding_compiles_nothing, check_released_shapes, check_training_gradients
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from mindsora.ckpt_convert import load, upstream_state
from mindsora.errors import InputError
from mindsora.models.t5.model import T5Config, T5Encoder, clamp_float16, relative_position_bucket
from mindsora.nn.precision import set_precision

FP32 = (
    "t5_v1_1_encoder_masked",
    "t5_v1_1_encoder_long_nomask",
    "mt5_encoder_masked",
    "umt5_encoder_masked",
    "t5_v1_1_full_checkpoint",
)
FP16 = ("t5_v1_1_encoder_fp16_clamp", "t5_v1_1_encoder_fp16_wo_fp32")
XL = T5Config(vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32)


def inputs(golden):
    return [golden.tensor(name) for name in ("input_ids", "attention_mask") if name in golden.inputs]


@pytest.mark.parametrize("name", FP32)
def test_last_hidden_state_matches_upstream(name, run):
    golden = Golden(name)
    encoder = load(T5Encoder.from_upstream(golden.config), golden.weights)
    assert_close(run(encoder, *inputs(golden)), golden.outputs["last_hidden_state"], 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", FP32[:4])
def test_every_block_matches_upstream(name):
    golden = Golden(name)
    encoder = load(T5Encoder.from_upstream(golden.config), golden.weights)
    states = encoder.hidden_states(*inputs(golden))
    assert len(states) == golden.config["num_layers"] + 1
    for i, state in enumerate(states[1:]):
        assert_close(state, golden.outputs[f"block_{i}_hidden"], 1e-4)


@pytest.mark.parametrize("name", FP32[:4])
def test_position_bias_matches_upstream(name):
    golden = Golden(name)
    encoder = load(T5Encoder.from_upstream(golden.config), golden.weights)
    expected = golden.outputs["position_bias_block_0"]
    if "attention_mask" in golden.inputs:  # a gathered table: equal bit for bit
        expected = np.where(np.abs(expected) > 1e9, np.nan, expected)
    actual = encoder.position_bias(0, golden.inputs["input_ids"].shape[1]).asnumpy()
    assert actual.shape == expected.shape and np.array_equal(actual[~np.isnan(expected)], expected[~np.isnan(expected)])


def test_buckets_match_upstream():
    golden = Golden("t5_relative_buckets")
    for key, expected in golden.outputs.items():  # bucket_nb<num_buckets>_md<max_distance>
        num_buckets, max_distance = (int(part[2:]) for part in key.split("_")[1:])
        actual = relative_position_bucket(golden.inputs["relative_position"], num_buckets, max_distance)
        np.testing.assert_array_equal(actual, expected)


def in_precision(golden, dtype, like_the_file=False):
    """The fixture's encoder in `dtype`; like_the_file: each parameter in the dtype it is stored in."""
    with no_init_parameters():  # as the pipeline builds it
        encoder = T5Encoder.from_upstream(golden.config)
    set_precision(encoder, dtype)
    if like_the_file:
        for parameter, stored in zip(encoder.get_parameters(), upstream_state(encoder)):
            parameter.set_dtype({"float16": ms.float16, "float32": ms.float32}[str(golden.weights[stored].dtype)])
    return load(encoder, golden.weights)


@pytest.mark.parametrize("name", FP16)
def test_float16_is_at_most_twice_as_wrong_as_upstream(name, run):
    golden = Golden(name)
    encoder = in_precision(golden, ms.float16, like_the_file=True)
    exact = in_precision(golden, ms.float32)  # the same float16 values in float32 arithmetic
    last = run(encoder, *inputs(golden))
    assert last.dtype == ms.float16
    assert_at_most_twice_as_wrong(last, golden.outputs["last_hidden_state"], exact(*inputs(golden)))


@pytest.mark.full
@pytest.mark.parametrize("name", FP16)
def test_every_float16_block_is_at_most_twice_as_wrong_as_upstream(name):
    golden = Golden(name)
    states = in_precision(golden, ms.float16, like_the_file=True).hidden_states(*inputs(golden))
    exact = in_precision(golden, ms.float32).hidden_states(*inputs(golden))
    for i, state in enumerate(states[1:]):
        upstream = golden.outputs[f"block_{i}_hidden"]
        assert np.dtype(ms.dtype_to_nptype(state.dtype)) == upstream.dtype
        assert_at_most_twice_as_wrong(state, upstream, exact[i + 1])


def assert_at_most_twice_as_wrong(actual, upstream, exact):
    """Error against float32, worst element; beyond float16's range float32 is clipped to what float16 can hold."""
    exact = np.clip(exact.asnumpy().astype(np.float64), -64512, 64512)
    ours = np.abs(actual.asnumpy().astype(np.float64) - exact).max()
    assert ours <= 2 * np.abs(upstream.astype(np.float64) - exact).max()


def test_overflow_is_clamped_where_upstream_clamps(run):
    golden = Golden("t5_v1_1_encoder_fp16_clamp")
    encoder = in_precision(golden, ms.float16, like_the_file=True)
    clamped = 0
    for i, state in enumerate(encoder.hidden_states(*inputs(golden))[1:]):
        upstream = golden.outputs[f"block_{i}_hidden"]
        at_bound = np.abs(upstream) >= 64500
        np.testing.assert_array_equal(state.asnumpy()[at_bound], upstream[at_bound])
        assert_close(state, upstream, 4 * 32)  # four float16 steps at this size
        clamped += at_bound.sum()
    assert clamped > 0
    assert_close(run(encoder, *inputs(golden)), golden.outputs["last_hidden_state"], 4 * 2**-8)  # four steps below 8


def test_clamp_bounds(run):
    over, within = np.float16([1, -np.inf, 65504]), np.float16([1, -65504, 65504])
    np.testing.assert_array_equal(run(clamp_float16, Tensor(over)).asnumpy(), np.float16([1, -64512, 64512]))
    np.testing.assert_array_equal(run(clamp_float16, Tensor(within)).asnumpy(), within)
    wide = np.float32([1e6, -np.inf])
    np.testing.assert_array_equal(run(clamp_float16, Tensor(wide)).asnumpy(), wide)


def test_wo_stays_float32_under_float16_only():
    golden = Golden("t5_v1_1_encoder_fp16_wo_fp32")
    encoder = set_precision(T5Encoder.from_upstream(golden.config), ms.float16)
    for parameter, name in zip(encoder.get_parameters(), upstream_state(encoder)):
        stored = ms.float16 if golden.weights[name].dtype == np.float16 else ms.float32
        assert parameter.dtype == stored, name
    assert {p.dtype for p in set_precision(encoder, ms.bfloat16).get_parameters()} == {ms.bfloat16}


@pytest.mark.full
@pytest.mark.parametrize("name", ["t5_v1_1_encoder_masked", "umt5_encoder_masked"])
def test_gradients_under_jit(name):
    golden = Golden(name)
    ms.set_seed(0)
    encoder = T5Encoder.from_upstream(golden.config)  # from scratch: this also checks the initialisation
    rng = np.random.RandomState(0)
    target = Tensor(rng.randn(*golden.outputs["last_hidden_state"].shape).astype(np.float32))
    check_training_gradients(encoder, inputs(golden), target)


def test_fresh_encoder_starts_at_unit_scale():
    """The published initialisation keeps features near 1 and attention scores near 1 without the 1/sqrt(K) factor."""
    ms.set_seed(0)
    config = T5Config(vocab_size=500, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4)
    encoder = T5Encoder(config)
    ids = Tensor(np.random.RandomState(0).randint(0, 500, (4, 32)).astype(np.int32))
    assert 0.9 < encoder(ids).asnumpy().std() < 1.1
    x = encoder.blocks[0].attention_norm(encoder.shared(ids))
    attention = encoder.blocks[0].attention
    scores = attention.q(x).asnumpy()[0, :, :32] @ attention.k(x).asnumpy()[0, :, :32].T
    assert 0.5 < scores.std() < 2


@pytest.mark.full
def test_prompts_of_other_lengths_compile_nothing(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    ids, mask = golden.inputs["input_ids"], golden.inputs["attention_mask"]
    check_padding_compiles_nothing(tmp_path, T5Encoder, golden, ids, mask)


def test_released_xl_has_exactly_upstream_keys():
    with no_init_parameters():
        encoder = T5Encoder(XL)
    golden = json.loads((FOLDER / "keys/t5_v1_1_xl_encoder.json").read_text())
    check_released_shapes(encoder, golden["shapes"], golden["parameters"])


def test_embedding_under_either_name():
    golden = Golden("t5_v1_1_full_checkpoint")
    weights = {k: v for k, v in golden.weights.items() if not k.startswith(("decoder.", "lm_head"))}
    assert {"shared.weight", "encoder.embed_tokens.weight"} < weights.keys()
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        encoder = load(T5Encoder.from_upstream(golden.config), {k: v for k, v in weights.items() if k != name})
        np.testing.assert_array_equal(encoder.shared.weight.asnumpy(), weights["shared.weight"])
    weights = {k: v for k, v in weights.items() if "embed_tokens" not in k and "shared" not in k}
    with pytest.raises(InputError, match="shared.weight"):
        load(T5Encoder.from_upstream(golden.config), weights)


def test_config_errors():
    config = Golden("t5_v1_1_encoder_masked").config
    with pytest.raises(InputError, match="num_head.*num_heads"):
        T5Config.from_upstream(config | {"num_head": 3})
    with pytest.raises(InputError, match="gated-gelu"):
        T5Config.from_upstream(config | {"feed_forward_proj": "relu"})
    with pytest.raises(InputError, match="umt5"):
        T5Config.from_upstream(config | {"model_type": "bert"})
    released = {
        "architectures": ["T5ForConditionalGeneration"],
        "dropout_rate": 0.1,
        "tie_word_embeddings": False,
        "n_positions": 512,
        "num_decoder_layers": 3,
        "torch_dtype": "float32",
    }
    assert T5Config.from_upstream(config | released) == T5Config.from_upstream(config)
