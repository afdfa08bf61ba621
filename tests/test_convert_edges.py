"""Rare legal checkpoints (training state beside weights, byte order, shared stages), and differences of files."""

import argparse
import collections
import io
import pathlib
import random
import signal
import types

import numpy as np
import pytest
import torch
from bad_checkpoints import SPLIT, ranks
from safetensors.numpy import save_file

from mindsora.ckpt_convert import open_checkpoint
from mindsora.ckpt_convert.comparison import difference
from mindsora.ckpt_convert.entry import ArrayEntry, Part
from mindsora.ckpt_convert.recognise import recognise
from mindsora.cli import main
from mindsora.errors import InputError


def bookkeeping():
    """The state that training scripts save beside the weights."""
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(
        lr=1e-5,
        params_dtype=torch.bfloat16,
        save=pathlib.PosixPath("x"),
        exit_signal=signal.SIGTERM,
        layers={1, 2},
        frozen=frozenset("a"),
        device=torch.device("cpu"),
        size=torch.Size([2, 3]),
        window=slice(1, 2),
        steps=range(3),
        pair=1 + 2j,
        raw=b"abc",
        buffer=bytearray(b"abc"),
        nested=types.SimpleNamespace(a=None),
    )
    rng = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "pcg": np.random.default_rng(0).bit_generator.state,
        "generator": torch.Generator(),
    }
    return {
        "model": collections.OrderedDict(model.state_dict(), _extra_state=io.BytesIO(b"abc")),
        "optimizer": optimizer.state_dict(),
        "args": args,
        "rng_state": [rng],
        "iteration": np.int64(3),
        "loss": np.float64("nan"),
        "mask": np.arange(3) > 1,
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        ("a", 1): "b",
        "best": float("inf"),
        "big": 2**100,
    }


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_training_checkpoint_of_every_protocol(protocol, modern, tmp_path):
    saved = bookkeeping()
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=modern, pickle_protocol=protocol)
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        assert (checkpoint.wrapper, list(checkpoint)) == ("model", ["weight", "bias"])
        for name, entry in checkpoint.items():
            np.testing.assert_array_equal(entry.numpy(), saved["model"][name])


def test_an_archive_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        assert checkpoint["w"].numpy().tolist() == [1, 1, 1]


def test_big_endian_arrays_are_turned_round():
    entry = ArrayEntry("w", np.array([1, 2], ">i4"))
    assert b"".join(piece.tobytes() for piece in entry.slices()) == b"\1\0\0\0\2\0\0\0"


def test_a_part_must_be_whole():
    with pytest.raises(InputError, match="axis 0 must divide by 4 ranks"):
        Part(ArrayEntry("w", np.zeros((6, 4))), 0, 0, 4)


def test_a_rank_may_hold_no_columns(tmp_path):
    ranks(tmp_path, mp_rank_00={SPLIT: torch.zeros(4, 0)}, mp_rank_01={SPLIT: torch.ones(4, 2)})
    with open_checkpoint(tmp_path) as checkpoint:
        np.testing.assert_array_equal(checkpoint[SPLIT].numpy(), np.ones((4, 2)))


def test_stages_that_share_a_tensor_and_disagree_are_named(tmp_path):
    first, last = {"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.ones(2), "b": torch.zeros(2)}
    ranks(tmp_path, mp_rank_00_000=first, mp_rank_00_001=last)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.differing_replicas() == ["a"]
        assert checkpoint["a"].numpy().tolist() == [1, 1]  # the last one's


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], ""),
        ([1.0, np.nan, np.inf], [1.5, np.nan, np.inf], "1 of 3 values differ, by at most 0.5"),
        ([1.0, np.nan], [1.0, 2.0], "1 of 2 values differ, by at most inf"),
        ([0.0], [-0.0], "the values are equal, their bits are not"),
        (np.array([2**60]), np.array([2**60 + 1]), "1 of 1 values differ"),
        (
            np.float32([1, np.nan]),
            np.float16([1, np.nan]),
            "float32 against float16; 0 of 2 values differ, by at most 0",
        ),
        (np.zeros(2), np.zeros((2, 1)), r"shape (2,) against (2, 1)"),
    ],
)
def test_differences_are_counted_value_by_value(a, b, expected):
    found = difference(ArrayEntry("w", np.asarray(a)), ArrayEntry("w", np.asarray(b)))
    assert found.startswith(expected) and bool(found) == bool(expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16], ids=["same dtype", "other dtype"])
def test_verify_notices_damage_in_either_file(kind, tmp_path, capsys):
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"w": torch.arange(1.0, 7.0)}, good)
    torch.save({"w": torch.arange(1.0, 7.0).to(kind)}, bad)
    data, numbers = bad.read_bytes(), torch.arange(1.0, 7.0).to(kind).numpy().tobytes()
    at = data.index(numbers)
    bad.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for pair in ((good, bad), (bad, good)):
        assert main(["verify", *map(str, pair)]) == 2
        assert "bad.pt': is damaged: checksum" in capsys.readouterr().err


# Wrappers that trainers put around state dicts and names


NAMES = ("patch_embed.proj.weight", "blocks.0.attn.weight")


def wrapped(kind):
    """The same two tensors as a trainer saves them, and the text that describes the wrapper."""
    plain = {name: torch.full((2, 3), float(i)) for i, name in enumerate(NAMES)}
    fsdp, checkpointed = "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."

    def prefixed(prefix):
        return {prefix + name: value for name, value in plain.items()}

    return {
        "torch.compile": (prefixed("_orig_mod."), "_orig_mod."),
        "DDP twice": (prefixed("module.module."), "module., module."),
        "DDP of a compiled model": (prefixed("module._orig_mod."), "module., _orig_mod."),
        "Lightning": ({"state_dict": prefixed("model."), "epoch": 3, "hyper_parameters": {}}, "state_dict, model."),
        "DeepSpeed": ({"module": plain, "global_steps": 7, "dp_world_size": 2}, "module"),
        "DeepSpeed of DDP": ({"module": prefixed("module.")}, "module, module."),
        "FSDP": (
            {name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): value for name, value in plain.items()},
            "_fsdp_wrapped_module.",
        ),
        "FSDP of everything": (
            {f"{fsdp}{name.replace('blocks.0.', f'blocks.0.{fsdp}{checkpointed}')}": v for name, v in plain.items()},
            "_checkpoint_wrapped_module., _fsdp_wrapped_module.",
        ),
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["torch.compile", "DDP twice", "DDP of a compiled model", "Lightning", "DeepSpeed", "DeepSpeed of DDP", "FSDP"]
    + ["FSDP of everything"],
)
def test_wrappers_of_trainers_are_found_and_named(kind, tmp_path):
    content, said = wrapped(kind)
    torch.save(content, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        assert checkpoint.wrapper == said and sorted(checkpoint) == sorted(NAMES)
        np.testing.assert_array_equal(checkpoint[NAMES[1]].numpy(), np.ones((2, 3), np.float32))


def test_prefixes_in_safetensors(tmp_path):
    save_file({"_orig_mod." + name: np.zeros(3, np.float32) for name in NAMES}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.wrapper == "_orig_mod." and sorted(checkpoint) == sorted(NAMES)


@pytest.mark.parametrize(
    "names, said",
    [
        (["encoder.block.0.layer.1.DenseReluDense.wi.weight", "shared.weight"], "seems to be T5 v1.0"),
        (["blocks.0.self_attn.norm_q.weight", "patch_embedding.weight"], "seems to be Wan's transformer"),
        (["transformer_blocks.0.norm1.linear.weight", "patch_embed.text_proj.weight"], "seems to be CogVideoX"),
        (["transformer.a.lora_A.weight"], "seems to be a LoRA"),
        (["some.thing"], "names begin with some.thing"),
    ],
)
def test_strangers_are_named(names, said, tmp_path):
    save_file({name: np.zeros(3, np.float32) for name in names}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint, pytest.raises(InputError, match=said):
        recognise(checkpoint)
