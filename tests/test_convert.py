"""Conversion: every model through every pair of formats, bit for bit; and how other programs read the result."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from checkpoint_files import folder_of, hashes, large_t5, tensor_parallel, write_ranks
from golden_file import Golden, assert_close
from mindspore import Tensor

from mindsora.ckpt_convert import convert, load, open_checkpoint
from mindsora.ckpt_convert.cells import upstream_state
from mindsora.ckpt_convert.comparison import compare
from mindsora.ckpt_convert.recognise import build_cell, recognise
from mindsora.cli import main
from mindsora.errors import InputError
from mindsora.files import claimed
from mindsora.models import CLIPTextModel, T5Encoder

MODELS = {
    "wfvae888": "WFVAE",
    "wfvae488": "WFVAE",
    "causalvae": "CausalVAE",
    "suv_small_video": "SUV",
    "t5_v1_1_encoder_masked": "T5Encoder",
    "mt5_encoder_masked": "T5Encoder",
    "umt5_encoder_masked": "T5Encoder",
    "clip_text_quick_gelu_eos": "CLIPTextModel",
    "v13_inpaint_small": "OpenSoraInpaint",
    "v13_t2v_small_image": "OpenSoraT2V",
}
SIMILAR = {"wfvae888", "causalvae", "mt5_encoder_masked", "umt5_encoder_masked"}  # files resemble another model's
FORMATS = {"x.safetensors": None, "x.pt": None, "x.ckpt": None, "cell.safetensors": "mindspore", "folder": None}


def in_half(arrays, dtype):
    return {key: value.astype(dtype) for key, value in arrays.items()}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.full] if name in SIMILAR else []) for name in MODELS]
)
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
    assert stored.items() <= expected.items()  # a Cell's names omit the Haar constants
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
    for name, (dtype, shape, _) in hashes(source).items():
        tensor = state[name]
        assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{dtype}", shape)
    if "shared.weight" in state:
        assert state["shared.weight"].data_ptr() == state["encoder.embed_tokens.weight"].data_ptr()
    torch.save(state, tmp_path / "again.pt")
    assert hashes(tmp_path / "again.pt") == hashes(source)


def test_torch_reads_every_dtype(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    kinds = ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"]
    arrays = {
        key: value.astype(np.dtype(kinds[i % len(kinds)])) for i, (key, value) in enumerate(golden.weights.items())
    }
    source = folder_of(tmp_path / "source", arrays, golden.config)
    convert(source, tmp_path / "x.pt", allow_nonfinite=True)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    for key, value in arrays.items():
        if key in state:
            assert str(state[key].dtype) == f"torch.{value.dtype.name}"
            np.testing.assert_array_equal(
                state[key].view(torch.uint8).numpy(), np.ascontiguousarray(value).view(np.uint8)
            )
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
    state[wi] = state[wi].t().contiguous().t()  # not contiguous
    stacked = torch.stack([state["encoder.final_layer_norm.weight"]] * 3, 1)
    state["encoder.final_layer_norm.weight"] = stacked[:, 1]  # one column of three
    state["encoder.embed_tokens.weight"] = state["shared.weight"]  # tied
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


@pytest.fixture(scope="module")
def tp2():
    return tensor_parallel()


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
    with pytest.raises(InputError, match=r"takes 0\.\d\d\d MB; its disk has 0\.001 free"):
        convert(source, tmp_path / "x.pt")
    assert not list(tmp_path.glob("x.pt*"))


def test_what_killed_runs_left_is_removed(published, tmp_path):
    source, _ = published
    folder, file = tmp_path / "x.0123abcd.partial", tmp_path / "x.pt.0123abcd.partial"
    folder.mkdir()
    (folder / "model.safetensors").write_text("half")
    file.write_text("half")
    for left in (folder, file):
        os.utime(left, (0, 0))
    before = hashes(source)
    convert(source, tmp_path / "x")
    convert(source, tmp_path / "x.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.pt"]
    assert hashes(tmp_path / "x") == hashes(tmp_path / "x.pt") == hashes(source) == before


def test_a_target_that_another_process_writes_is_refused(published, tmp_path):
    source, _ = published
    for target in ("x", "x.pt"):
        with claimed(tmp_path / target), pytest.raises(InputError, match="another process is writing"):
            convert(source, tmp_path / target)
        convert(source, tmp_path / target)
        assert hashes(tmp_path / target) == hashes(source)


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


@pytest.mark.full
def test_memory_does_not_grow_with_the_tensor(tmp_path):
    golden = Golden("t5_v1_1_encoder_masked")
    small = folder_of(tmp_path / "small", golden.weights, golden.config)
    large = large_t5(tmp_path / "large", 2**23)  # 512 MB
    arguments = [small, tmp_path / "a.pt", large, tmp_path / "b.pt"]
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) < 128  # MB: a few slices of 16


# The commands


def test_commands(tp2, tmp_path, capsys):
    golden, ranks, _ = tp2
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
