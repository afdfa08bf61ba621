"""Configurations inferred from shapes, against those of the released models."""

import json

import numpy as np
import pytest
from checkpoint_files import folder_of
from golden_file import FOLDER, Golden

from mindsora.ckpt_convert import convert, open_checkpoint
from mindsora.ckpt_convert.recognise import recognise
from mindsora.errors import InputError
from mindsora.models import WFVAEConfig

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
    released = {
        "num_layers": [2, 4, 6, 8, 6, 4, 2],
        "sparse_n": [1, 2, 4, 8, 4, 2, 1],
        "num_heads": 24,
        "head_dim": 128,
        "in_channels": 32,
        "out_channels": 32,
        "timestep_embed_dim": 1024,
        "caption_channels": 2048,
        "pooled_projection_dim": 1280,
        "patch_size": 2,
        "double_ff": True,
    }
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
    # The weights do not determine how the latents are standardised; only v1.5 uses a factor other than 0.18215.
    assert found.assumed.keys() == {"t_interpolation", "scale", "shift"}
    latents = WFVAEConfig.from_upstream(found.config)
    if name == "wfvae_888_v1_5":
        assert (len(latents.scale), latents.scale[7], sum(latents.scale)) == (32, 2.1719, pytest.approx(39.0076))
        assert (len(latents.shift), latents.shift[26], sum(latents.shift)) == (32, -2.1094, pytest.approx(-2.087))
    else:
        assert set(latents.scale) == {0.18215} and set(latents.shift) == {0.0}


def test_released_text_encoder_configurations_from_shapes(tmp_path):
    found = inferred(
        tmp_path,
        json.loads((FOLDER / "keys/t5_v1_1_xl_encoder.json").read_text())["shapes"]
        | {"encoder.embed_tokens.weight": [32128, 2048]},
    )
    xl = {
        "vocab_size": 32128,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "model_type": "t5",
    }
    assert found.model == "T5Encoder" and xl.items() <= found.config.items()
    found = inferred(tmp_path, json.loads((FOLDER / "keys/clip_vit_bigg_14_text.json").read_text())["shapes"])
    bigg = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
    }
    assert found.model == "CLIPTextModel" and bigg.items() <= found.config.items()


def test_a_config_that_contradicts_the_weights(tmp_path):
    golden = Golden("suv_small_video")
    source = folder_of(tmp_path / "source", golden.weights, golden.config | {"num_heads": 7})
    with pytest.raises(InputError, match=r"num_heads = 7 \(the weights say"):
        convert(source, tmp_path / "x.pt")
