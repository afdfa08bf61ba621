"""The Llama decoder: transformers' numbers, its cache, conversion both ways, and peft's merge of a LoRA."""

import json

import numpy as np
import pytest
from conftest import call
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor
from safetensors import safe_open
from safetensors.numpy import save_file

from mindsora.ckpt_convert import convert, load
from mindsora.ckpt_convert.lora import read_lora
from mindsora.errors import InputError
from mindsora.models import LlamaConfig, LlamaForCausalLM

# Logits of magnitude 20 in float32, sums in another order.
ATOL = 1e-4


@pytest.fixture(scope="module")
def golden():
    return Golden("llama")


@pytest.fixture(scope="module")
def llama(golden):
    return load(LlamaForCausalLM.from_upstream(golden.config), golden.weights).set_train(False)


def step(run, llama, ids, first, cache):
    """Logits of the new tokens, and the cache with them."""
    logits, *cache = run(llama, Tensor(np.asarray(ids, np.int32)), Tensor(np.int32(first)), *cache)
    return logits.asnumpy(), cache


def test_logits_are_those_of_transformers(golden, llama, run):
    logits, _ = step(run, llama, golden.inputs["ids"], 0, llama.empty_cache(32))
    assert_close(logits, golden.outputs["logits"], ATOL)


def test_a_text_in_pieces_has_the_logits_of_the_whole(golden, llama, run):
    ids, cache, pieces = golden.inputs["ids"], llama.empty_cache(24), []
    for start, stop in ((0, 23), (23, 24)):
        logits, cache = step(run, llama, ids[start:stop], start, cache)
        pieces.append(logits)
    assert_close(np.concatenate(pieces), golden.outputs["logits"], ATOL)


def test_padding_leaves_no_trace(golden, llama):
    ids, cache = golden.inputs["ids"], llama.empty_cache(40)
    logits, cache = step(call, llama, np.r_[ids[:10], np.full(6, 7)], 0, cache)
    assert_close(logits[:10], golden.outputs["logits"][:10], ATOL)
    logits, _ = step(call, llama, ids[10:], 10, cache)
    assert_close(logits, golden.outputs["logits"][10:], ATOL)


def write_checkpoint(folder, golden, **changed):
    folder.mkdir()
    save_file(golden.weights, folder / "model.safetensors", {"format": "pt"})
    library = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(golden.config | library | changed))
    return folder


def lora_of(golden, folder):
    """The adapter as peft saves it."""
    folder.mkdir()
    with safe_open(FOLDER / "llama.safetensors", framework="np") as file:
        matrices = {key.removeprefix("lora/"): file.get_tensor(key) for key in file.keys() if key.startswith("lora/")}
    save_file(matrices, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(golden.metadata["lora"])
    return folder


def test_conversion_both_ways(golden, tmp_path):
    source = write_checkpoint(tmp_path / "llama", golden)
    report = convert(source, tmp_path / "cell", to="mindspore")
    assert report.model == "LlamaForCausalLM" and not report.dropped
    convert(tmp_path / "cell", tmp_path / "back")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "back")
    for parameter in again.get_parameters():
        name = parameter.name if parameter.name.startswith("lm_head") else f"model.{parameter.name}"
        np.testing.assert_array_equal(parameter.asnumpy(), golden.weights[name])


def test_a_lora_merged_at_conversion_has_the_logits_of_pefts_merge(golden, tmp_path):
    source, lora = write_checkpoint(tmp_path / "llama", golden), lora_of(golden, tmp_path / "lora")
    settings = json.loads(golden.metadata["lora"])
    assert {update.scale for update in read_lora(lora).values()} == {settings["lora_alpha"] / settings["r"]}
    convert(source, tmp_path / "merged", loras=[(str(lora), 1.0)])
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    logits, _ = step(call, merged, golden.inputs["ids"], 0, merged.empty_cache(24))
    assert_close(logits, golden.outputs["merged_logits"], ATOL)
    assert np.abs(golden.outputs["merged_logits"] - golden.outputs["logits"]).max() > 1


def test_tied_heads_use_the_embedding(golden, tmp_path):
    weights = {name: value for name, value in golden.weights.items() if name != "lm_head.weight"}
    tied = load(LlamaForCausalLM.from_upstream(golden.config | {"tie_word_embeddings": True}), weights)
    same = load(
        LlamaForCausalLM.from_upstream(golden.config),
        weights | {"lm_head.weight": weights["model.embed_tokens.weight"]},
    )
    logits = [step(call, cell, golden.inputs["ids"][:5], 0, cell.empty_cache(8))[0] for cell in (tied, same)]
    np.testing.assert_array_equal(*logits)


def test_configurations_of_both_generations_of_transformers_agree(golden):
    rule = golden.config["rope_parameters"]
    older = {key: value for key, value in golden.config.items() if key != "rope_parameters"}
    older |= {"rope_theta": rule["rope_theta"], "rope_scaling": {k: v for k, v in rule.items() if k != "rope_theta"}}
    config = LlamaConfig.from_upstream(golden.config)
    assert config == LlamaConfig.from_upstream(older) == LlamaConfig.from_upstream(config.to_upstream())
    assert LlamaConfig.from_upstream(LlamaConfig().to_upstream()) == LlamaConfig()
    plain = LlamaConfig.from_upstream({"hidden_size": 64, "num_attention_heads": 4, "rope_scaling": None})
    assert (plain.rope_theta, plain.rope_factor, plain.num_key_value_heads, plain.head_dim) == (10_000.0, 1.0, 4, 16)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type = 'yarn': only default and llama3"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "llama3 lacks low_freq_factor"),
        ({"model_type": "mistral"}, "model_type = 'mistral' is not supported"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3: must divide num_attention_heads = 4; nearest legal: 2"),
        ({"head_dim": 7}, "head_dim = 7: must be even"),
        ({"hidden_sise": 32}, "did you mean 'hidden_size'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(golden, change, message):
    with pytest.raises(InputError, match=message):
        LlamaConfig.from_upstream(golden.config | change)
