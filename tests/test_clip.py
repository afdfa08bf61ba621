"""CLIPTextModel against transformers' CLIPTextModelWithProjection (numbers in tests/golden, tolerance 1e-4: sums in
another order)."""

import json

import mindspore as ms
import numpy as np
import pytest
from cell_checks import check_padding_compiles_nothing, check_released_shapes, check_training_gradients
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from mindsora.ckpt_convert import load
from mindsora.errors import InputError
from mindsora.models.clip.model import CLIPTextConfig, CLIPTextModel, CLIPTextOutput

CASES = (
    "clip_text_gelu_legacy_eos",
    "clip_text_quick_gelu_eos",
    "clip_text_quick_gelu_eos_mask",
    "clip_text_eos_first_match_extra_ids",
    "clip_text_eos_legacy_extra_ids",
)
BIGG = CLIPTextConfig(
    hidden_size=1280, intermediate_size=5120, projection_dim=1280, num_hidden_layers=32, num_attention_heads=20,
    hidden_act="gelu", eos_token_id=2,
)  # fmt: skip


class TextEmbeds(nn.Cell):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def construct(self, input_ids, attention_mask=None):
        return self.encoder(input_ids, attention_mask)[0]


def inputs(golden):
    return [golden.tensor(name) for name in ("input_ids", "attention_mask") if name in golden.inputs]


def loaded(golden):
    return load(CLIPTextModel.from_upstream(golden.config), golden.weights)


@pytest.mark.parametrize("name", CASES)
def test_outputs_match_upstream(name, run):
    golden = Golden(name)
    output = CLIPTextOutput(*run(loaded(golden), *inputs(golden)))
    assert_close(output.text_embeds, golden.outputs["text_embeds"], 1e-4)
    assert_close(output.last_hidden_state, golden.outputs["last_hidden_state"], 1e-4)
    assert_close(output.pooled, golden.outputs["pooled"], 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_every_block_matches_upstream(name):
    golden = Golden(name)
    states = loaded(golden).hidden_states(*inputs(golden))
    assert_close(states[0], golden.outputs["embeddings"], 1e-6)
    assert len(states) == golden.config["num_hidden_layers"] + 1
    for i, state in enumerate(states[1:]):
        assert_close(state, golden.outputs[f"layer_{i}_hidden"], 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_pooled_position_matches_upstream(name, run):
    golden = Golden(name)
    position = run(loaded(golden).end_of_text, golden.tensor("input_ids"))
    np.testing.assert_array_equal(position.asnumpy(), golden.outputs["pooled_position"])


def test_the_two_pooling_rules_differ_on_added_ids():
    first, legacy = (Golden(f"clip_text_eos_{rule}_extra_ids") for rule in ("first_match", "legacy"))
    assert (first.outputs["pooled_position"] != legacy.outputs["pooled_position"]).any()


def test_absent_end_id_pools_the_first_position():
    golden = Golden("clip_text_quick_gelu_eos")
    ids = Tensor(np.where(golden.inputs["input_ids"] == golden.config["eos_token_id"], 5, golden.inputs["input_ids"]))
    assert (loaded(golden).end_of_text(ids).asnumpy() == 0).all()


def test_text_embeds_do_not_depend_on_what_follows_the_end():
    golden = Golden("clip_text_quick_gelu_eos")
    model, ids = loaded(golden), golden.inputs["input_ids"].copy()
    for row, end in zip(ids, golden.outputs["pooled_position"]):
        row[end + 1 :] = 0
    assert (ids != golden.inputs["input_ids"]).any()
    output = model(Tensor(ids))
    assert isinstance(output, CLIPTextOutput)
    assert_close(output.text_embeds, model(golden.tensor("input_ids")).text_embeds.asnumpy(), 1e-6)


@pytest.mark.full
@pytest.mark.parametrize("name", ["clip_text_gelu_legacy_eos", "clip_text_quick_gelu_eos_mask"])
def test_gradients_under_jit(name):
    golden = Golden(name)
    ms.set_seed(0)
    model = CLIPTextModel.from_upstream(golden.config)
    rng = np.random.RandomState(0)
    target = Tensor(rng.randn(*golden.outputs["text_embeds"].shape).astype(np.float32))
    # A key bias adds the same number to all scores of a query, and softmax cancels it.
    check_training_gradients(TextEmbeds(model), inputs(golden), target, cancelled=("k_proj.bias",))


@pytest.mark.full
def test_prompts_of_other_lengths_compile_nothing(tmp_path):
    golden = Golden("clip_text_quick_gelu_eos_mask")
    ids, mask = golden.inputs["input_ids"], golden.inputs["attention_mask"]
    check_padding_compiles_nothing(tmp_path, CLIPTextModel, golden, ids, mask)


def test_more_tokens_than_positions_is_an_error():
    golden = Golden("clip_text_quick_gelu_eos")
    with pytest.raises(ValueError, match="21 tokens.*20 positions"):
        loaded(golden)(Tensor(np.ones((1, 21), np.int32)))


def test_released_bigg_has_exactly_upstream_keys():
    with no_init_parameters():
        model = CLIPTextModel(BIGG)
    golden = json.loads((FOLDER / "keys/clip_vit_bigg_14_text.json").read_text())
    check_released_shapes(model, golden["shapes"], golden["parameters"])


def test_loads_bare_keys_and_whole_clip_checkpoints():
    golden = Golden("clip_text_quick_gelu_eos")
    expected = loaded(golden)(*inputs(golden)).text_embeds.asnumpy()
    bare = {key.removeprefix("text_model."): value for key, value in golden.weights.items()}
    whole = golden.weights | {
        "text_model.embeddings.position_ids": np.arange(20)[None],
        "vision_model.encoder.layers.0.layer_norm1.weight": np.ones(3, np.float32),
        "visual_projection.weight": np.ones((2, 3), np.float32),
        "logit_scale": np.float32(4.6),
    }
    for weights in (bare, whole):
        model = load(CLIPTextModel.from_upstream(golden.config), weights)
        np.testing.assert_array_equal(model(*inputs(golden)).text_embeds.asnumpy(), expected)


def test_projection_size_left_out_of_text_config():
    """LAION's config.json holds projection_dim at the top level only; the checkpoint's shapes decide."""
    golden = Golden("clip_text_gelu_legacy_eos")
    flat = CLIPTextConfig.from_upstream(golden.config)
    text = {k: v for k, v in golden.config.items() if k != "projection_dim"} | {"model_type": "clip_text_model"}
    whole = {"model_type": "clip", "projection_dim": 24, "vision_config": {"patch_size": 14}, "text_config": text}
    assert CLIPTextConfig.from_upstream(whole) == flat
    assert CLIPTextConfig.from_upstream(whole | {"projection_dim": 7}).projection_dim == 7
    both = whole | {"text_config": text | {"projection_dim": 24}, "projection_dim": 7}
    assert CLIPTextConfig.from_upstream(both) == flat
    shapes = {key: value.shape for key, value in golden.weights.items()}
    wrong = text | {"num_hidden_layers": 12, "vocab_size": 7, "intermediate_size": 7}
    assert CLIPTextConfig.from_upstream(whole | {"text_config": wrong, "projection_dim": 7}, shapes) == flat


def test_config_errors():
    config = Golden("clip_text_gelu_legacy_eos").config
    with pytest.raises(InputError, match="num_attention_head.*num_attention_heads"):
        CLIPTextConfig.from_upstream(config | {"num_attention_head": 3})
    with pytest.raises(InputError, match="projektion_dim.*projection_dim"):
        CLIPTextConfig.from_upstream({"text_config": config, "projektion_dim": 3})
    with pytest.raises(InputError, match="relu.*quick_gelu"):
        CLIPTextConfig.from_upstream(config | {"hidden_act": "relu"})
    with pytest.raises(InputError, match="32 must divide by num_attention_heads 5"):
        CLIPTextConfig.from_upstream(config | {"num_attention_heads": 5})
