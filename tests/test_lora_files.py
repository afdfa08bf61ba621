"""LoRA files: the layouts of PEFT and diffusers are read, damaged and foreign files are refused by name."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mindsora.ckpt_convert.entry import ArrayEntry
from mindsora.ckpt_convert.lora import FILE, METADATA, Merged, Update, fitted, read_lora, write_lora
from mindsora.errors import InputError
from mindsora.pipelines.lora_file import LoRAFile

LAYER = "transformer_blocks.0.0.attn1.to_q"
OTHER = "transformer_blocks.0.0.attn1.to_out.0"
RNG = np.random.RandomState(0)
DOWN, UP = RNG.randn(2, 6).astype(np.float32), RNG.randn(4, 2).astype(np.float32)
SHAPES = {f"{LAYER}.weight": (4, 6), f"{OTHER}.weight": (4, 6), f"{LAYER}.bias": (4,), "conv.weight": (4, 6, 2, 2)}


def pair(layer=LAYER, prefix="transformer.", names=("lora_A.weight", "lora_B.weight"), down=DOWN, up=UP):
    return {f"{prefix}{layer}.{names[0]}": down, f"{prefix}{layer}.{names[1]}": up}


def saved(folder, tensors, metadata=None, config=None, name=FILE):
    save_file(tensors, folder / name, metadata)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / name


def dense(update):
    return update.rows(0, len(update.up))


# The dialects


@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model.", "", "base_model.model.transformer."])
@pytest.mark.parametrize(
    "names",
    [
        ("lora_A.weight", "lora_B.weight"),
        ("lora_A.default.weight", "lora_B.default.weight"),
        ("lora_down.weight", "lora_up.weight"),
        ("lora.down.weight", "lora.up.weight"),
    ],
)
def test_names_of_both_dialects(tmp_path, prefix, names):
    updates = read_lora(saved(tmp_path, pair(prefix=prefix, names=names) | pair(OTHER, prefix, names)))
    assert updates.keys() == {LAYER, OTHER}
    np.testing.assert_allclose(dense(updates[LAYER]), UP @ DOWN, rtol=1e-6)  # without an alpha it is the rank


@pytest.mark.parametrize(
    "alpha, scale",
    [
        ({"metadata": {METADATA: json.dumps({"transformer.r": 2, "transformer.lora_alpha": 8})}}, 4.0),
        ({"config": {"r": 2, "lora_alpha": 8, "target_modules": ["to_q"]}}, 4.0),
        ({"config": {"r": 2, "lora_alpha": 8, "use_rslora": True}}, 8 / np.sqrt(2)),
        ({"config": {"r": 2, "lora_alpha": 8, "alpha_pattern": {"to_q": 1}}}, 0.5),
        ({"config": {"r": 2, "lora_alpha": 8, "alpha_pattern": {"o_q": 1}}}, 4.0),  # no whole part of the name
        ({"extra": {f"transformer.{LAYER}.alpha": np.float32(6)}}, 3.0),
        ({"extra": {f"transformer.{LAYER}.alpha": np.array([6], np.float16)}}, 3.0),
        ({}, 1.0),
    ],
)
def test_alpha(tmp_path, alpha, scale):
    tensors = pair() | {key: np.asarray(value) for key, value in alpha.get("extra", {}).items()}
    file = saved(tmp_path, tensors, alpha.get("metadata"), alpha.get("config"))
    assert read_lora(file)[LAYER].scale == pytest.approx(scale)
    assert read_lora(tmp_path, 0.5)[LAYER].scale == pytest.approx(scale / 2)  # a folder stands for its file


def test_what_is_written_is_read_again(tmp_path):
    write_lora(tmp_path / FILE, {LAYER: (DOWN, UP), OTHER: (2 * DOWN, UP)}, rank=2, alpha=3.0)
    assert sorted(load_file(tmp_path / FILE)) == sorted(pair() | pair(OTHER))
    with safe_open(tmp_path / FILE, "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and json.loads(metadata[METADATA]) == {
        "transformer.r": 2,
        "transformer.lora_alpha": 3.0,
        "transformer.target_modules": [OTHER, LAYER],
        "transformer.peft_type": "LORA",
    }
    updates = fitted(read_lora(tmp_path / FILE), SHAPES, "file", "SUV")
    assert updates.keys() == {f"{LAYER}.weight", f"{OTHER}.weight"}
    np.testing.assert_array_equal(updates[f"{LAYER}.weight"].down, DOWN)
    np.testing.assert_allclose(dense(updates[f"{OTHER}.weight"]), 1.5 * UP @ (2 * DOWN), rtol=1e-6)


# Files that are refused, each by name


def nan(array):
    bad = array.copy()
    bad[0, 0] = np.nan
    return bad


@pytest.mark.parametrize(
    "tensors, config, message",
    [
        ({f"transformer.{LAYER}.lora_A.weight": DOWN}, None, "lacks lora_B"),
        (
            pair() | {f"transformer.{LAYER}.lora_magnitude_vector": UP},
            None,
            "lora_magnitude_vector' is no part of a LoRA",
        ),
        (pair() | {"lora_unet_blocks_0.lora_mid.weight": UP}, None, "lora_mid.weight' is no part of a LoRA"),
        (pair() | pair(prefix="base_model.model."), None, "under another key too"),
        (pair(up=UP[:, :1]), None, "no common rank"),
        (pair(down=DOWN[:0], up=UP[:, :0]), None, "no common rank"),
        (pair(down=DOWN.reshape(2, 6, 1, 1)), None, r"shape \(2, 6, 1, 1\)"),
        (pair(down=DOWN.astype(np.int32)), None, "is int32"),
        (pair(down=nan(DOWN)), None, "infinite values or NaN"),
        (pair() | {f"transformer.{LAYER}.alpha": np.array([1, 2], np.float32)}, None, "must be one number"),
        (pair() | {f"transformer.{LAYER}.alpha": np.array(np.inf, np.float32)}, None, "alpha of layer .* is 'inf'"),
        (
            pair() | {"transformer.nowhere.alpha": np.array(1, np.float32)},
            None,
            "'nowhere' has an alpha and no matrices",
        ),
        (pair(), {"lora_alpha": "8"}, "alpha of layer .* must be a finite number"),
        (pair(), {"use_dora": True}, "use_dora = True is not supported"),
        (pair(), {"fan_in_fan_out": True}, "fan_in_fan_out = True is not supported"),
        (pair(), {"alpha_pattern": {".*to_q": 1}}, "regular expressions are not read"),
        (pair(), {"alpha_pattern": [1]}, "alpha_pattern must map"),
    ],
)
def test_damaged_files_are_refused(tmp_path, tensors, config, message):
    with pytest.raises(InputError, match=message):
        read_lora(saved(tmp_path, tensors, config=config))


@pytest.mark.parametrize("metadata", ["{", "[]", "[" * 200, '{"transformer.lora_alpha": NaN}'])
def test_damaged_metadata_is_refused(tmp_path, metadata):
    with pytest.raises(InputError, match=METADATA):
        read_lora(saved(tmp_path, pair(), {METADATA: metadata}))


def test_missing_and_truncated_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_lora(tmp_path / "none.safetensors")
    file = saved(tmp_path, pair())
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match="cut off"):
        read_lora(file)


@pytest.mark.parametrize(
    "layer, down, up, message",
    [
        (
            "transformer_blocks.0.0.attn1.to_x",
            DOWN,
            UP,
            "no layer '.*to_x'; nearest: transformer_blocks.0.0.attn1.to_q",
        ),
        ("text_encoder.block.0.q", DOWN, UP, "no layer 'text_encoder.block.0.q'"),
        (LAYER, DOWN[:, :5], UP, r"weights of shape \(4, 6\)"),
        ("conv", DOWN, UP, r"weights of shape \(4, 6, 2, 2\)"),
    ],
)
def test_layers_of_another_model_are_refused(layer, down, up, message):
    with pytest.raises(InputError, match=message):
        fitted({layer: Update(down, up, 1.0)}, SHAPES, "my.safetensors", "SUV")


@pytest.mark.parametrize(
    "text, file, scale",
    [("a.safetensors", "a.safetensors", 1), ("a.safetensors:0.5", "a.safetensors", 0.5), ("d/a:-1e-1", "d/a", -0.1)],
)
def test_scale_after_the_file(text, file, scale):
    assert LoRAFile.parse(text) == LoRAFile(file, scale)


def test_a_path_with_a_colon_is_taken_whole(tmp_path):
    (tmp_path / "a:2").mkdir()
    assert LoRAFile.parse(str(tmp_path / "a:2")) == LoRAFile(str(tmp_path / "a:2"))


@pytest.mark.parametrize("text", ["a:b", "a:", "a:nan", "a:inf"])
def test_scales_that_are_no_numbers_are_refused(text):
    with pytest.raises(InputError, match="FILE:SCALE with a finite scale"):
        LoRAFile.parse(text)


# The sum


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_merged_slices_are_the_rounded_sum(dtype):
    weight = RNG.randn(4, 6).astype(dtype)
    updates = [Update(DOWN, UP, 0.5), Update(DOWN, 2 * UP, -0.1)]
    entry = Merged(ArrayEntry("w", weight), updates, np.dtype(dtype).name)
    exact = weight.astype(np.float64) + 0.3 * UP.astype(np.float64) @ DOWN
    whole = entry.numpy()
    assert whole.dtype == dtype
    limit = 1e-6 if dtype == np.float32 else np.abs(exact).max() * float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(whole.astype(np.float64), exact, rtol=0, atol=limit)
    for start, stop in ((0, 24), (5, 7), (6, 12), (3, 20), (23, 24)):
        np.testing.assert_allclose(
            entry.read(start, stop).astype(np.float32), whole.reshape(-1)[start:stop].astype(np.float32), atol=limit
        )


def test_scale_zero_keeps_every_bit():
    weight = np.array([[-0.0, 1e-45], [65504, -1]], np.float32)
    entry = Merged(
        ArrayEntry("w", weight), [Update(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32), 0.0)], "float32"
    )
    assert entry.numpy().tobytes() == weight.tobytes()
