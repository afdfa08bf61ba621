"""Every field of every configuration has a type and a range: any other value is one clear InputError."""

import math
from dataclasses import fields, replace

import pytest

from mindsora import sampling, zoo
from mindsora.config import from_dict
from mindsora.errors import InputError
from mindsora.models import registry
from mindsora.ranges import check_fields

VALUES = (0, -1, 10**12, 1.5, "x", [], None, math.nan, True)
# The members of VALUES that each field accepts; a field without an entry accepts none.
LEGAL = {
    "FlowMatchScheduler": {
        "shift": [1.5], "base_shift": [0, -1, 1.5], "max_shift": [0, -1, 1.5], "sigma_eps": [0],
        "use_dynamic_shifting": [True], "use_linear_quadratic_schedule": [True],
    },
    "VPredictionScheduler": {"rescale_betas_zero_snr": [True], "steps_offset": [0], "snr_gamma": [1.5, None]},
    "SUVConfig": {"double_ff": [True], "skip_connection": [True], "last_block_text": [True]},
    "WFVAEConfig": {"use_attention": [True], "connect_res_layer_num": [0]},
    "T5Config": {"layer_norm_epsilon": [0]},
    "LlamaConfig": {
        "rms_norm_eps": [0], "head_dim": [None], "tie_word_embeddings": [True], "rope_theta": [1.5], "rope_factor": [1.5],
        "rope_low": [1.5], "rope_high": [1.5],
    },
    "CLIPTextConfig": {"layer_norm_eps": [0], "eos_token_id": [0]},
    "ModelIndex": {
        "guidance_scale": [0, 1.5], "guidance_rescale": [0], "fps": [1.5], "max_pixels": [None], "image_pixels": [None],
        "image_stride": [None],
    },
}  # fmt: skip
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 4}


def configurations() -> dict:
    """One legal configuration of each class."""
    classes = {spec.config.__name__: spec.config for spec in registry.specs()}
    found = {name: cls(**T5) if name == "T5Config" else cls() for name, cls in classes.items()}
    found |= {name: getattr(sampling, name)() for name in ("FlowMatchScheduler", "VPredictionScheduler")}
    return found | {"ModelIndex": zoo.ModelIndex.read(zoo.find("nano"))}


CONFIGURATIONS = configurations()
CASES = [
    (name, field.name) for name, config in CONFIGURATIONS.items() for field in fields(config) if field.init
]  # fmt: skip


@pytest.mark.parametrize("name, field", CASES)
def test_a_field_takes_legal_values_only(name, field):
    config, legal = CONFIGURATIONS[name], LEGAL.get(name, {}).get(field, [])
    for value in VALUES:
        if any(value is one or (value == one and type(value) is type(one)) for one in legal):
            replace(config, **{field: value})
            continue
        with pytest.raises(InputError) as error:
            replace(config, **{field: value})
        message = str(error.value)
        assert field in message and len(message) < 400 and message.isprintable(), message


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_files_are_checked_as_constructors_are(name):
    cls = type(CONFIGURATIONS[name])
    field = fields(cls)[0].name
    with pytest.raises(InputError, match=f"{cls.__name__}: {field} = nan must be of type|{field} = nan: must be"):
        from_dict(cls, T5 | {field: math.nan} if name == "T5Config" else vars_of(name) | {field: math.nan})


def vars_of(name: str) -> dict:
    config = CONFIGURATIONS[name]
    return {field.name: getattr(config, field.name) for field in fields(config) if field.init}


def test_messages_name_the_nearest_legal_value():
    suv = CONFIGURATIONS["SUVConfig"]
    for change, words in [
        ({"num_heads": 0}, "num_heads = 0: must be from 1 to 512; nearest legal: 1"),
        ({"num_heads": 10**12}, "num_heads = 1000000000000: must be from 1 to 512; nearest legal: 512"),
        ({"head_dim": -48}, "head_dim = -48: must be from 1 to 1024; nearest legal: 1"),
        ({"num_layers": (2, 10**9, 2)}, "num_layers = 1000000000: must be from 1 to 512"),
        ({"sparse_n": (1, "2", 1)}, r"sparse_n = \(1, '2', 1\) must be of type list\[int, ...\]"),
        ({"interpolation_scale": (1.0, 1.0)}, r"must be of type list\[float, float, float\]"),
        ({"interpolation_scale": (1.0, math.nan, 1.0)}, "interpolation_scale = nan: must be from 1e-06 to 1000000$"),
    ]:
        with pytest.raises(InputError, match=words):
            replace(suv, **change)


def test_foreign_keys_and_values_are_escaped_and_shortened():
    for config in ({"x\x1b[31m" * 10_000: 1}, {"num_heads": "\x07" * 10_000}):
        with pytest.raises(InputError) as error:
            from_dict(type(CONFIGURATIONS["SUVConfig"]), config)
        assert str(error.value).isprintable() and len(str(error.value)) < 900


def test_every_released_configuration_is_within_the_ranges():
    for path in zoo.CONFIGURATIONS.rglob("model_index.json"):
        check_fields(zoo.ModelIndex.read(path.parent))
