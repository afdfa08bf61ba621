"""Checkpoints of the denoisers of v1.3 and v1.2 and of their text encoder: released keys and shapes, recognition, both
directions.
"""

import json

import numpy as np
import pytest
from cell_checks import check_released_shapes
from checkpoint_files import folder_of, hashes
from golden_file import FOLDER, Golden
from safetensors.numpy import save_file
from test_convert_config import inferred

from mindsora.ckpt_convert import convert, load, upstream_state
from mindsora.ckpt_convert.recognise import build_cell
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.models import OpenSoraInpaint, OpenSoraT2V
from mindsora.models.opensora.model import FIXED
from mindsora.zoo import CONFIGURATIONS

SCALES = dict.fromkeys((f"interpolation_scale_{axis}" for axis in "thw"), 1.0)
RELEASED = {  # key list: folder, Cell, what the weights leave open
    "v1_3_t2v": ("v1_3/any93x640x640", "OpenSoraT2V", {"sparse_n": 4}),
    "v1_3_inpaint": ("v1_3/any93x640x640_i2v", "OpenSoraInpaint", {"sparse_n": 4}),
    "v1_2_t2v": ("v1_2/29x480p", "OpenSoraT2V", {"sparse_n": 1} | SCALES),
    "v1_2_inpaint": ("v1_2/93x480p_i2v", "OpenSoraInpaintV1_2", {"sparse_n": 1} | SCALES),
}


@pytest.fixture(params=RELEASED)
def released(request):
    """Key list and configuration of a published denoiser."""
    folder, cell, open_keys = RELEASED[request.param]
    keys = json.loads((FOLDER / "keys" / f"opensora_{request.param}.json").read_text())
    return keys, read_json(CONFIGURATIONS / folder / "transformer" / "config.json"), cell, open_keys


def test_released_shapes(released):
    keys, config, name, _ = released
    cell = build_cell(name, config)
    check_released_shapes(cell, keys["shapes"], keys["parameters"])
    assert len(list(cell.get_parameters())) == keys["tensors"]


def test_released_configuration_from_shapes(released, tmp_path):
    keys, config, name, open_keys = released
    found = inferred(tmp_path, keys["shapes"])
    assert (found.model, found.dropped) == (name, [])
    # scales: 1, which is also their default; the others have no effect
    left = {*SCALES, "norm_type", "sample_size", "sample_size_t", "use_rope"}
    for key in config.keys() - left:
        assert found.config[key] == config[key], key
    assert found.assumed == FIXED | {"num_attention_heads": 24, "attention_head_dim": 96} | open_keys


def test_released_mt5(tmp_path):
    keys = json.loads((FOLDER / "keys" / "mt5_xxl_encoder.json").read_text())
    found = inferred(tmp_path, {name: shape for name, shape in keys["shapes"].items() if "embed_tokens" not in name})
    xxl = {
        "vocab_size": 250112,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "model_type": "mt5",
    }
    assert found.model == "T5Encoder" and xxl.items() <= found.config.items()
    encoder = build_cell(found.model, found.config)
    check_released_shapes(encoder, keys["shapes"], keys["parameters"])
    assert len(list(encoder.get_parameters())) + 1 == keys["tensors"]  # upstream lists the embedding twice


@pytest.mark.parametrize("name", ["v13_t2v_small_image", "v13_inpaint_small", "v12_t2v_odd_scaled", "v12_i2v_small"])
def test_there_and_back(name, tmp_path):
    """Published folder, MindSpore file, published folder: every byte, and a configuration that builds the same Cell."""
    golden = Golden(name)
    source = folder_of(tmp_path / "source", golden.weights, golden.config)
    report = convert(source, tmp_path / "x.ckpt")
    again = convert(tmp_path / "x.ckpt", tmp_path / "bare")
    assert (report.names, again.names) == ("upstream", "mindsora")
    assert hashes(tmp_path / "bare") == hashes(source)
    convert(source, tmp_path / "folder")
    config = read_json(tmp_path / "folder" / "config.json")
    assert config["_class_name"] == golden.config["model"] and golden.config.items() <= config.items()
    cell = load(build_cell(report.model, config), tmp_path / "x.ckpt")
    assert cell.config == build_cell(report.model, golden.config).config
    state = upstream_state(cell)
    assert state.keys() == golden.weights.keys()
    for key, value in golden.weights.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)


def test_dense_weights_without_a_configuration_are_written_as_v1_2s(tmp_path):
    golden = Golden("v12_t2v_small_image")
    source = tmp_path / "weights.safetensors"
    save_file(golden.weights, source)
    report = convert(source, tmp_path / "folder")
    config = read_json(tmp_path / "folder" / "config.json")
    assert (config["_class_name"], config["sparse_n"], report.assumed["interpolation_scale_h"]) == (
        "OpenSoraT2V",
        1,
        1.0,
    )


def test_weights_of_the_other_task_are_named(tmp_path):
    t2v, inpaint = Golden("v13_t2v_small_image"), Golden("v13_inpaint_small")
    with pytest.raises(InputError, match="does not fit OpenSoraT2V; it has the names of OpenSoraInpaint: missing"):
        load(OpenSoraT2V.from_upstream(t2v.config), inpaint.weights)
    with pytest.raises(InputError, match="does not fit OpenSoraInpaint; it has the names of OpenSoraT2V: missing"):
        load(OpenSoraInpaint.from_upstream(inpaint.config), t2v.weights)
    source = folder_of(tmp_path / "source", t2v.weights, t2v.config | {"_class_name": "OpenSoraInpaint_v1_3"})
    with pytest.raises(InputError, match="_class_name = 'OpenSoraInpaint_v1_3' .the weights say 'OpenSoraT2V_v1_3'"):
        convert(source, tmp_path / "x.pt")


def test_text_to_video_weights_fill_all_of_the_inpainting_model_but_its_six_own_tensors():
    """The six tensors are what Open-Sora Plan v1.3.0's `OpenSoraInpaint_v1_3` adds to its text-to-video model. Every other
    tensor must be in the text-to-video checkpoint, which may hold no more."""
    golden = Golden("v13_t2v_small_image")
    t2v = load(OpenSoraT2V.from_upstream(golden.config), golden.weights)
    state = upstream_state(OpenSoraInpaint.from_t2v(t2v))
    assert state.keys() - golden.weights.keys() == {
        "pos_embed_masked_hidden_states.0.proj.weight",
        "pos_embed_masked_hidden_states.0.proj.bias",
        "pos_embed_masked_hidden_states.1.weight",
        "pos_embed_mask.0.proj.weight",
        "pos_embed_mask.0.proj.bias",
        "pos_embed_mask.1.weight",
    }
    for key, value in golden.weights.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    assert not state["pos_embed_masked_hidden_states.1.weight"].any() and not state["pos_embed_mask.1.weight"].any()
    for change in (lambda weights: weights.pop("scale_shift_table"), lambda weights: weights.update(extra=np.ones(1))):
        change(weights := dict(golden.weights))
        with pytest.raises(InputError, match="does not fit OpenSoraT2V: "):
            load(t2v, weights)


def test_a_missing_tensor_is_no_other_task():
    golden = Golden("v13_inpaint_small")
    weights = {key: value for key, value in golden.weights.items() if key != "proj_out.bias"}
    with pytest.raises(InputError, match=r"does not fit OpenSoraInpaint: missing \['proj_out.bias'\]"):
        load(OpenSoraInpaint.from_upstream(golden.config), weights)


def test_widths_that_make_no_heads(tmp_path):
    shapes = {
        name: [20 if size == 48 else size for size in value.shape]
        for name, value in Golden("v13_t2v_small_image").weights.items()
    }
    with pytest.raises(InputError, match="looks like OpenSoraT2V, but its shapes make no configuration.*20 channels"):
        inferred(tmp_path, shapes)
