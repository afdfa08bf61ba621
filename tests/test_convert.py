"""Conversion: every model through every pair of formats, bit for bit, and what torch, transformers and MindSpore make of it."""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys

import ml_dtypes
import mindspore as ms
import numpy as np
import pytest
import torch
import transformers
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor
from safetensors.numpy import save_file

from mindsora.ckpt_convert import convert, load, open_checkpoint
from mindsora.ckpt_convert.cells import upstream_state
from mindsora.ckpt_convert.comparison import compare
from mindsora.ckpt_convert.names.suv import TABLE
from mindsora.ckpt_convert.recognise import build_cell, recognise
from mindsora.cli import main
from mindsora.errors import InputError
from mindsora.models import SUV, CLIPTextModel, T5Encoder

MODELS = {
    "wfvae888": "WFVAE", "wfvae488": "WFVAE", "suv_small_video": "SUV", "t5_v1_1_encoder_masked": "T5Encoder",
    "umt5_encoder_masked": "T5Encoder", "clip_text_quick_gelu_eos": "CLIPTextModel",
}
FORMATS = {"x.safetensors": None, "x.pt": None, "x.ckpt": None, "cell.safetensors": "mindspore", "folder": None}


def hashes(path, ema=None):
    """Canonical name -> dtype, shape and sha256 of the bytes."""
    with open_checkpoint(path, ema) as checkpoint:
        tensors = recognise(checkpoint).tensors
        return {name: (entry.dtype, entry.shape, entry.sha256()) for name, entry in tensors.items()}


def folder_of(path, arrays, config):
    """A checkpoint as upstream publishes it."""
    path.mkdir()
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path / "weights.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def in_half(arrays, dtype):
    return {key: value.astype(dtype) for key, value in arrays.items()}


@pytest.fixture(scope="module", params=MODELS)
def published(request, tmp_path_factory):
    """A golden model's weights in bfloat16, as a folder, and converted to every format."""
    golden, path = Golden(request.param), tmp_path_factory.mktemp("published")
    source = folder_of(path / "source", in_half(golden.weights, ml_dtypes.bfloat16), golden.config)
    made = {name: path / name for name in FORMATS}
    for name, to in FORMATS.items():
        assert convert(source, made[name], to=to).model == MODELS[request.param]
    return source, made


@pytest.mark.parametrize("between", FORMATS)
def test_every_pair_of_formats_keeps_every_byte(published, between, tmp_path):
    source, made = published
    expected = hashes(source)
    stored = hashes(made[between])
    assert stored.items() <= expected.items()  # a Cell's names leave the Haar constants out
    for name, to in FORMATS.items():
        convert(made[between], tmp_path / name, to=to)
        assert hashes(tmp_path / name) == hashes(made[name]), name


def test_the_source_is_whole_again_after_a_detour_through_mindspore(published, tmp_path):
    source, made = published
    convert(made["x.ckpt"], tmp_path / "back.safetensors")
    assert hashes(tmp_path / "back.safetensors") == hashes(source)


def test_a_converted_folder_fills_the_cell(published):
    source, made = published
    with open_checkpoint(source) as checkpoint:
        found = recognise(checkpoint)
    cell = load(build_cell(found.model, found.config), made["folder"])
    direct = load(build_cell(found.model, found.config), source)
    for a, b in zip(cell.get_parameters(), direct.get_parameters()):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy(), err_msg=a.name)


# Real torch


def test_torch_loads_what_is_written_and_tied_names_share_storage(published, tmp_path):
    source, made = published
    state = torch.load(made["x.pt"], weights_only=True)
    for name, (dtype, shape, digest) in hashes(source).items():
        tensor = state[name]
        assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{dtype}", shape)
    if "shared.weight" in state:
        assert state["shared.weight"].data_ptr() == state["encoder.embed_tokens.weight"].data_ptr()
    torch.save(state, tmp_path / "again.pt")
    assert hashes(tmp_path / "again.pt") == hashes(source)


def test_torch_reads_every_dtype(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    kinds = ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"]
    arrays = {key: value.astype(np.dtype(kinds[i % len(kinds)])) for i, (key, value) in enumerate(golden.weights.items())}
    source = folder_of(tmp_path / "source", arrays, golden.config)
    convert(source, tmp_path / "x.pt", allow_nonfinite=True)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    for key, value in arrays.items():
        if key in state:
            assert str(state[key].dtype) == f"torch.{value.dtype.name}"
            np.testing.assert_array_equal(state[key].view(torch.uint8).numpy(), np.ascontiguousarray(value).view(np.uint8))
    convert(tmp_path / "x.pt", tmp_path / "y.safetensors", allow_nonfinite=True)
    assert hashes(tmp_path / "y.safetensors") == hashes(source)
    with pytest.raises(InputError, match="float8_e5m2, which mindspore does not have"):
        convert(source, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="without its scales"):
        convert(source, tmp_path / "x.safetensors", dtype="fp16")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_what_torch_writes_is_read(new, tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    state = {key: torch.from_numpy(value).to(torch.bfloat16) for key, value in golden.weights.items()}
    expected = {key: value.contiguous().view(torch.uint8).numpy() for key, value in state.items()}
    wi = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    state[wi] = state[wi].t().contiguous().t()                                       # not contiguous
    stacked = torch.stack([state["encoder.final_layer_norm.weight"]] * 3, 1)
    state["encoder.final_layer_norm.weight"] = stacked[:, 1]                         # one column of three
    state["encoder.embed_tokens.weight"] = state["shared.weight"]                    # tied
    state = {key: torch.nn.Parameter(value, requires_grad=False) for key, value in state.items()}
    torch.save({"state_dict": state}, tmp_path / "x.bin", _use_new_zipfile_serialization=new)
    with open_checkpoint(tmp_path / "x.bin") as checkpoint:
        assert checkpoint.container == ("torch zip" if new else "torch legacy")
        assert checkpoint.wrapper == "state_dict"
        for key, value in expected.items():
            np.testing.assert_array_equal(checkpoint[key].numpy().view(np.uint8), value, err_msg=key)


# Real transformers


def test_t5_agrees_with_transformers_in_both_directions(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    config = transformers.T5Config(**golden.config, dropout_rate=0.0)
    torch.manual_seed(0)
    twin = transformers.T5EncoderModel(config).eval()
    twin.save_pretrained(tmp_path / "theirs")
    ids, mask = golden.inputs["input_ids"], golden.inputs["attention_mask"]
    with torch.no_grad():
        expected = twin(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).last_hidden_state.numpy()
    ours = load(T5Encoder.from_upstream(golden.config), tmp_path / "theirs").set_train(False)
    # 1e-4: the limit for text encoders, float32 sums in another order
    assert_close(ours(Tensor(ids), Tensor(mask)), expected, 1e-4)

    convert(tmp_path / "theirs", tmp_path / "x.ckpt")
    for target, to in (("folder", "diffusers"), ("torch", "torch")):
        convert(tmp_path / "x.ckpt", tmp_path / target, to=to)
        again = transformers.T5EncoderModel.from_pretrained(tmp_path / target).eval()
        with torch.no_grad():
            found = again(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).last_hidden_state.numpy()
        np.testing.assert_array_equal(found, expected)  # the same weights in the same program


def test_clip_agrees_with_transformers_in_both_directions(tmp_path):
    golden = Golden("clip_text_quick_gelu_eos")
    torch.manual_seed(0)
    twin = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**golden.config)).eval()
    twin.save_pretrained(tmp_path / "theirs")
    ids = golden.inputs["input_ids"]
    with torch.no_grad():
        expected = twin(torch.from_numpy(ids).long()).text_embeds.numpy()
    ours = load(CLIPTextModel.from_upstream(golden.config), tmp_path / "theirs").set_train(False)
    assert_close(ours(Tensor(ids)).text_embeds, expected, 1e-4)  # as above
    convert(tmp_path / "theirs", tmp_path / "folder")
    again = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "folder").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.from_numpy(ids).long()).text_embeds.numpy(), expected)


def test_a_full_t5_loses_its_decoder_and_keeps_its_encoder(tmp_path, capsys):
    golden = Golden("t5_v1_1_full_checkpoint")
    source = folder_of(tmp_path / "full", golden.weights, golden.config)
    report = convert(source, tmp_path / "encoder")
    assert all(name.startswith("decoder.") or name == "lm_head.weight" for name in report.dropped) and report.dropped
    encoder = load(T5Encoder.from_upstream(golden.config), tmp_path / "encoder").set_train(False)
    found = encoder(golden.tensor("input_ids"), golden.tensor("attention_mask"))
    assert_close(found, golden.outputs["last_hidden_state"], 1e-4)  # the limit for text encoders


def test_two_names_of_one_tensor_must_agree(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    weights = golden.weights | {"encoder.embed_tokens.weight": golden.weights["shared.weight"] + 1}
    source = folder_of(tmp_path / "source", weights, golden.config)
    with pytest.raises(InputError, match="another name of 'shared.weight', but the two have different values"):
        convert(source, tmp_path / "x.pt")


# Real MindSpore


def test_mindspore_loads_what_is_written(published):
    source, made = published
    with open_checkpoint(source) as checkpoint:
        found = recognise(checkpoint)
        cell = build_cell(found.model, found.config)
        names = {p.name: found.table.upstream_name(p.name) for p in cell.get_parameters()}
        for path, container in ((made["x.ckpt"], "ckpt"), (made["cell.safetensors"], "safetensors")):
            parameters = ms.load_checkpoint(str(path), format=container)
            assert parameters.keys() == names.keys()
            for name, parameter in parameters.items():
                assert parameter.dtype == ms.bfloat16
                expected = found.tensors[names[name]].numpy().astype(np.float32)
                np.testing.assert_array_equal(parameter.astype(ms.float32).asnumpy(), expected, err_msg=name)


@pytest.mark.parametrize("crc", [False, True])
def test_what_mindspore_writes_is_read(crc, tmp_path):
    golden = Golden("clip_text_quick_gelu_eos")
    cell = load(CLIPTextModel.from_upstream(golden.config), golden.weights)
    ms.save_checkpoint(cell, str(tmp_path / "x.ckpt"), crc_check=crc)
    convert(tmp_path / "x.ckpt", tmp_path / "x.safetensors")
    again = load(CLIPTextModel.from_upstream(golden.config), tmp_path / "x.safetensors")
    state = upstream_state(again)
    for name, value in upstream_state(cell).items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    load(CLIPTextModel.from_upstream(golden.config), tmp_path / "x.ckpt")


# Tensor parallel


@pytest.fixture(scope="module")
def tp2():
    golden = Golden("suv_tp2_checkpoint")
    for note in ("tensor_parallel", "note"):
        del golden.config[note]
    ranks = [{key.removeprefix(f"rank0{rank}/"): value for key, value in golden.inputs.items()
              if key.startswith(f"rank0{rank}/")} for rank in (0, 1)]
    merged = {key.removeprefix("merged/"): value for key, value in golden.outputs.items() if key.startswith("merged/")}
    return golden, ranks, merged


def write_ranks(folder, ranks, iteration="1000", **more):
    """A checkpoint folder as Megatron writes it, with its bookkeeping."""
    place = folder / ("release" if iteration == "release" else f"iter_{int(iteration):07d}")
    for rank, state in enumerate(ranks):
        path = place / f"mp_rank_{rank:02d}"
        path.mkdir(parents=True)
        tensors = {key: torch.from_numpy(value) for key, value in state.items()}
        tensors["transformer_blocks.0.0.attn1.to_q._extra_state"] = None
        torch.save({
            "args": argparse.Namespace(hidden_size=32, dtype=torch.bfloat16, names=["a"]), "iteration": 1000,
            "checkpoint_version": 3.0, "model": tensors,
            "rng_state": [{"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state()}],
            **{name: {key: torch.from_numpy(value) for key, value in states[rank].items()} for name, states in more.items()},
        }, path / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text(iteration)
    return folder


@pytest.mark.parametrize("iteration", ["1000", "release"])
def test_merging_ranks_gives_the_golden_merged_weights(iteration, tp2, tmp_path):
    _, ranks, merged = tp2
    with open_checkpoint(write_ranks(tmp_path / "mm", ranks, iteration)) as checkpoint:
        assert checkpoint.container == "MindSpeed-MM, TP 2, PP 1" and checkpoint.wrapper == "model"
        assert checkpoint.keys() == merged.keys()
        for name, entry in checkpoint.items():
            np.testing.assert_array_equal(entry.numpy(), merged[name], err_msg=name)


def test_the_merged_weights_give_the_golden_sample(tp2, tmp_path):
    golden, ranks, _ = tp2
    folder = write_ranks(tmp_path / "mm", ranks)
    (folder / "config.json").write_text(json.dumps(golden.config))
    suv = load(SUV.from_upstream(golden.config), folder).set_train(False)
    order = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "attention_mask",
             "encoder_attention_mask")
    assert_close(suv(*(golden.tensor(name) for name in order)), golden.outputs["sample"], 1e-4)  # the limit for SUV


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_splitting_and_merging_is_exact(tp, tmp_path):
    # heads that 8 divides; the golden checkpoint has two
    config = {"num_layers": [2, 2, 2], "sparse_n": [1, 2, 1], "num_heads": 8, "head_dim": 16, "in_channels": 4,
              "out_channels": 4, "timestep_embed_dim": 16, "caption_channels": 12, "pooled_projection_dim": 14,
              "last_block_text": True}
    rng = np.random.default_rng(0)
    cell = build_cell("SUV", config)
    state = {TABLE.upstream_name(p.name): rng.standard_normal(p.shape).astype(np.float16) for p in cell.get_parameters()}
    assert sum("transformer_blocks.2.1" in name and ("to_add_out" in name or "ff_enc" in name or "norm2.norm_enc" in name)
               for name in state) == 6
    source = folder_of(tmp_path / "source", state, config)
    convert(source, tmp_path / "mm", tp=tp)
    rank = torch.load(tmp_path / "mm/release" / f"mp_rank_{tp - 1:02d}" / "model_optim_rng.pt", weights_only=True)
    assert rank["checkpoint_version"] == 3.0
    q, out = "transformer_blocks.0.0.attn1.to_q.weight", "transformer_blocks.0.0.attn1.to_out.0.weight"
    np.testing.assert_array_equal(rank["model"][q].numpy(), np.split(state[q], tp, 0)[-1])
    np.testing.assert_array_equal(rank["model"][out].numpy(), np.split(state[out], tp, 1)[-1])
    convert(tmp_path / "mm", tmp_path / "back")
    assert hashes(tmp_path / "back") == hashes(source)


def test_moving_average_or_not(tp2, tmp_path):
    _, ranks, _ = tp2
    averaged = [{key: value * 0.5 for key, value in rank.items()} for rank in ranks]
    folder = write_ranks(tmp_path / "mm", ranks, ema_model=averaged)
    q = "transformer_blocks.0.0.attn1.to_q.weight"
    for ema, wrapper, factor in ((None, "ema_model", 0.5), (True, "ema_model", 0.5), (False, "model", 1.0)):
        with open_checkpoint(folder, ema) as checkpoint:
            assert checkpoint.wrapper == wrapper
            np.testing.assert_array_equal(checkpoint[q].numpy()[:16], factor * ranks[0][q])
    with pytest.raises(InputError, match="no moving average"):
        open_checkpoint(write_ranks(tmp_path / "live", ranks), ema=True)


def test_ranks_that_disagree_are_named(tp2, tmp_path):
    _, ranks, _ = tp2
    ranks = [dict(rank) for rank in ranks]
    ranks[1]["norm_final.weight"] = ranks[1]["norm_final.weight"] + 1
    report = convert(write_ranks(tmp_path / "mm", ranks), tmp_path / "x.pt")
    assert ["norm_final.weight" in warning for warning in report.warnings] == [True]
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:  # the last rank wins, as upstream's merge has it
        np.testing.assert_array_equal(checkpoint["norm_final.weight"].numpy(), ranks[1]["norm_final.weight"])


def test_pipeline_stages_are_counted_on(tp2, tmp_path):
    _, ranks, merged = tp2
    for stage in range(3):
        for rank, state in enumerate(ranks):
            prefix = f"transformer_blocks.{stage}."
            own = {key.replace(prefix, "transformer_blocks.0."): value for key, value in state.items() if key.startswith(prefix)}
            if stage != 1:  # embeddings in front, head and skips behind
                own |= {key: value for key, value in state.items() if not key.startswith("transformer_blocks.")}
            path = tmp_path / "mm" / "iter_0000005" / f"mp_rank_{rank:02d}_{stage:03d}"
            path.mkdir(parents=True)
            torch.save({"model": {key: torch.from_numpy(value) for key, value in own.items()}}, path / "model_optim_rng.pt")
    (tmp_path / "mm" / "latest_checkpointed_iteration.txt").write_text("5")
    with open_checkpoint(tmp_path / "mm") as checkpoint:
        assert checkpoint.container == "MindSpeed-MM, TP 2, PP 3"
        assert checkpoint.keys() == merged.keys()
        for name, entry in checkpoint.items():
            np.testing.assert_array_equal(entry.numpy(), merged[name], err_msg=name)


# Upstream's training checkpoints of the autoencoder


def test_autoencoder_training_checkpoint(tmp_path):
    golden = Golden("wfvae888")
    trainable = {key: value for key, value in golden.weights.items() if "wavelet_transform" not in key}
    live = {key: torch.from_numpy(value) for key, value in golden.weights.items()}
    torch.save({
        "ema_state_dict": {f"module.{key}": torch.from_numpy(2 * value) for key, value in trainable.items()},
        "state_dict": {"gen_model": live, "dics_model": {"main.0.weight": torch.zeros(3)}}, "epoch": 1,
        "optimizer_state": {"gen_optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-5}]}},
    }, tmp_path / "merged.ckpt")
    with open_checkpoint(tmp_path / "merged.ckpt") as checkpoint:
        assert checkpoint.wrapper == "ema_state_dict, module." and checkpoint.choices == ("state_dict.gen_model",)
    convert(tmp_path / "merged.ckpt", tmp_path / "ema")
    with open_checkpoint(tmp_path / "ema") as checkpoint:
        name = "encoder.conv_out.conv.weight"
        np.testing.assert_array_equal(checkpoint[name].numpy(), 2 * golden.weights[name])
        assert checkpoint.keys() == golden.weights.keys()  # the Haar kernels are there again
    convert(tmp_path / "merged.ckpt", tmp_path / "live", ema=False)
    source = folder_of(tmp_path / "source", golden.weights, {})
    assert hashes(tmp_path / "live") == hashes(source)


@pytest.mark.parametrize("prefix", ["model.", "vae."])
def test_an_autoencoder_wrapped_for_diffusion(prefix, tmp_path):
    golden = Golden("wfvae488")
    arrays = {prefix + key: value for key, value in golden.weights.items()} | {"shift": np.zeros((1, 4, 1, 1, 1), np.float32)}
    report = convert(folder_of(tmp_path / "source", arrays, golden.config), tmp_path / "x.safetensors")
    assert report.dropped == ["shift"]
    assert hashes(tmp_path / "x.safetensors") == hashes(folder_of(tmp_path / "plain", golden.weights, golden.config))


# Configurations from shapes


RELEASED = json.loads((FOLDER / "keys/autoencoders.json").read_text())


def inferred(tmp_path, shapes):
    """The configuration of a checkpoint with these shapes. The file is sparse: only its header is read."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(tmp_path / "released.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    with open_checkpoint(tmp_path / "released.safetensors") as checkpoint:
        return recognise(checkpoint)


@pytest.mark.parametrize("tp", [1, 8])
def test_released_suv_configuration_from_shapes(tp, tmp_path):
    found = inferred(tmp_path, json.loads((FOLDER / f"keys/suv_v1_5_tp{tp}.json").read_text())["shapes"])
    released = {"num_layers": [2, 4, 6, 8, 6, 4, 2], "sparse_n": [1, 2, 4, 8, 4, 2, 1], "num_heads": 24, "head_dim": 128,
                "in_channels": 32, "out_channels": 32, "timestep_embed_dim": 1024, "caption_channels": 2048,
                "pooled_projection_dim": 1280, "patch_size": 2, "double_ff": True}
    assert found.model == "SUV" and released.items() <= found.config.items()
    assert found.config.get("last_block_text", False) == (tp == 8)
    assert found.assumed == {"sparse_n": released["sparse_n"]}


@pytest.mark.parametrize("name", [name for name in RELEASED if name.startswith("wfvae")])
def test_released_autoencoder_configurations_from_shapes(name, tmp_path):
    found = inferred(tmp_path, RELEASED[name]["tensors"])
    assert found.model == "WFVAE"
    for key, value in RELEASED[name]["config"].items():
        if key in found.config:
            assert found.config[key] == value, key
    assert RELEASED[name]["config"]["latent_dim"] == found.config["latent_dim"]


def test_released_text_encoder_configurations_from_shapes(tmp_path):
    found = inferred(tmp_path, json.loads((FOLDER / "keys/t5_v1_1_xl_encoder.json").read_text())["shapes"] |
                     {"encoder.embed_tokens.weight": [32128, 2048]})
    xl = {"vocab_size": 32128, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32, "model_type": "t5"}
    assert found.model == "T5Encoder" and xl.items() <= found.config.items()
    found = inferred(tmp_path, json.loads((FOLDER / "keys/clip_vit_bigg_14_text.json").read_text())["shapes"])
    bigg = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
            "projection_dim": 1280, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu"}
    assert found.model == "CLIPTextModel" and bigg.items() <= found.config.items()


def test_a_config_that_contradicts_the_weights(tmp_path):
    golden = Golden("suv_small_video")
    source = folder_of(tmp_path / "source", golden.weights, golden.config | {"num_heads": 7})
    with pytest.raises(InputError, match=r"num_heads = 7 \(the weights say"):
        convert(source, tmp_path / "x.pt")


# Casting, sharding, files


def test_casting_counts_what_is_lost(tmp_path):
    golden = Golden("clip_text_quick_gelu_eos")
    weights = {key: np.zeros_like(value) for key, value in golden.weights.items()}
    weights["text_projection.weight"][0, :4] = [1e30, 1.0, 1 / 3, 65504.0]  # overflows, is exact, is rounded, is exact
    source = folder_of(tmp_path / "source", weights, golden.config)
    report = convert(source, tmp_path / "half", dtype="fp16")
    assert (report.overflowed, report.changed) == (1, 1)
    report = convert(source, tmp_path / "bf16", dtype="bf16")
    assert (report.overflowed, report.changed) == (0, 3)  # 1e30, 1/3 and 65504 have more than 8 bits
    report = convert(tmp_path / "bf16", tmp_path / "full", dtype="fp32")
    assert (report.overflowed, report.changed) == (0, 0)


def test_shards_and_index(published, tmp_path):
    source, _ = published
    convert(source, tmp_path / "sharded", shard=20_000)
    index = json.loads(next((tmp_path / "sharded").glob("*.index.json")).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0].endswith(f"-00001-of-{len(files):05d}.safetensors")
    assert hashes(tmp_path / "sharded") == hashes(source)
    os.remove(tmp_path / "sharded" / files[1])
    with pytest.raises(InputError, match="does not exist"):
        open_checkpoint(tmp_path / "sharded")


def test_sharded_torch_files_with_an_index(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    keys = sorted(golden.weights)
    where = {}
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        name = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({key: torch.from_numpy(golden.weights[key]) for key in part}, tmp_path / name)
        where |= dict.fromkeys(part, name)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    assert hashes(tmp_path) == hashes(folder_of(tmp_path / "plain", golden.weights, golden.config))


def test_every_problem_is_listed_at_once(tmp_path):
    golden = Golden("clip_text_quick_gelu_eos")
    weights = dict(golden.weights, surplus=np.zeros(3, np.float32))
    del weights["text_model.final_layer_norm.bias"]
    weights["text_model.final_layer_norm.weight"] = np.zeros(5, np.float32)
    with pytest.raises(InputError) as error:
        convert(folder_of(tmp_path / "source", weights, golden.config), tmp_path / "x.pt")
    for word in ("text_model.final_layer_norm.bias", "surplus", "(5,), expected (32,)"):
        assert word in str(error.value)
    assert not list(tmp_path.glob("x.pt*"))


def bad_arguments(source, path):
    (path / "there").mkdir()
    (path / "there" / "file").write_text("mine")
    return [
        ({"target": path / "there"}, "exists; remove it or name another"),
        ({"target": path / "no" / "x.pt"}, "its folder does not exist"),
        ({"target": path / "x.pt", "to": "mindspore"}, "or to a file ending in: .ckpt, .safetensors"),
        ({"target": path / "x", "to": "gguf"}, "choose from diffusers, torch, mindspore, mindspeed-mm"),
        ({"target": path / "x", "to": "mindspeed-mm"}, "mindspeed-mm, which needs it"),
        ({"target": path / "x", "tp": 3}, "must divide the 2 heads; legal: 1, 2"),
        ({"target": path / "x", "dtype": "int8"}, "choose from bf16, fp16, fp32"),
        ({"target": path / "x", "model": "VAE"}, "choose from auto"),
        ({"target": path / "x", "model": "WFVAE"}, "holds no WFVAE"),
        ({"target": path / "x", "ema": True}, "no moving average"),
    ]


def test_bad_arguments_leave_nothing(tp2, tmp_path):
    golden, _, merged = tp2
    source = folder_of(tmp_path / "source", merged, golden.config)
    for arguments, words in bad_arguments(source, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match="(?s).*".join(words.split("(?s)"))) as error:
            convert(source, **arguments)
        assert words in str(error.value)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_model_without_ranks(tmp_path):
    golden = Golden("clip_text_quick_gelu_eos")
    with pytest.raises(InputError, match="has no MindSpeed-MM layout"):
        convert(folder_of(tmp_path / "source", golden.weights, golden.config), tmp_path / "x", tp=2)


def test_a_full_disk_is_noticed_first(tp2, tmp_path, monkeypatch):
    golden, _, merged = tp2
    source = folder_of(tmp_path / "source", merged, golden.config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=1000))
    with pytest.raises(InputError, match="GB free"):
        convert(source, tmp_path / "x.pt")
    assert not list(tmp_path.glob("x.pt*"))


def test_an_interrupted_run_starts_clean(published, tmp_path):
    source, made = published
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "model.safetensors").write_text("half")
    (tmp_path / "x.pt.partial").write_text("half")
    before = hashes(source)
    convert(source, tmp_path / "x")
    convert(source, tmp_path / "x.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.pt"]
    assert hashes(tmp_path / "x") == hashes(tmp_path / "x.pt") == hashes(source) == before


_MEMORY = """
import sys
from mindsora.ckpt_convert import convert

def peak():  # not ru_maxrss: a child begins with its parent's
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

convert(sys.argv[1], sys.argv[2])
start = peak()
convert(sys.argv[3], sys.argv[4])
print(peak() - start)
"""


def test_memory_does_not_grow_with_the_tensor(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    small = folder_of(tmp_path / "small", golden.weights, golden.config)
    width = golden.weights["shared.weight"].shape[1]
    table = np.zeros((2**23, width), np.float16)                                     # 512 MB
    large = folder_of(tmp_path / "large", golden.weights | {"shared.weight": table}, golden.config | {"vocab_size": 2**23})
    arguments = [small, tmp_path / "a.pt", large, tmp_path / "b.pt"]
    done = subprocess.run([sys.executable, "-c", _MEMORY, *map(str, arguments)], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 128  # MB: a few slices of 16


# The commands


def test_commands(tp2, tmp_path, capsys):
    golden, ranks, merged = tp2
    source = write_ranks(tmp_path / "mm", ranks)
    (source / "config.json").write_text(json.dumps(golden.config))
    target = tmp_path / "folder"
    assert main(["convert", str(source), str(target), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "SUV, MindSpeed-MM, TP 2, PP 1 in model, upstream names" in printed and "240 tensors" in printed
    assert main(["verify", str(source), str(target)]) == 0
    assert "240 tensors are the same, bit for bit; 0 are not" in capsys.readouterr().out

    assert main(["inspect", str(target), "--hash"]) == 0
    printed = capsys.readouterr().out
    assert "num_layers: [2, 2, 2]" in printed and "float32:" in printed and "SUV, upstream names" in printed
    assert sum(re.match(r"[0-9a-f]{64}  float32  ", line) is not None for line in printed.splitlines()) == 240

    assert main(["convert", str(target), str(tmp_path / "half.pt"), "--dtype", "bf16", "--quiet"]) == 0
    assert "bf16:" in capsys.readouterr().out
    assert main(["verify", str(target), str(tmp_path / "half.pt")]) == 1
    assert "float32 against bfloat16" in capsys.readouterr().out
    assert main(["convert", str(target), str(tmp_path / "half.pt")]) == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_verify_says_what_differs_and_by_how_much(tmp_path):
    golden = Golden("clip_text_quick_gelu_eos")
    a = folder_of(tmp_path / "a", golden.weights, golden.config)
    changed = {key: value.copy() for key, value in golden.weights.items()}
    changed["text_projection.weight"][1, 2] += 0.5
    b = folder_of(tmp_path / "b", changed, golden.config)
    with open_checkpoint(a) as first, open_checkpoint(b) as second:
        same, differences = compare(first, second)
    assert same == len(golden.weights) - 1
    assert [d.name for d in differences] == ["text_projection.weight"]
    assert "1 of 768 values differ, by at most 0.5" in differences[0].what
