"""Checkpoints as upstream and its trainers write them, for the tests of conversion."""

import argparse
import json
import random

import numpy as np
import torch
from golden_file import Golden
from safetensors.numpy import save_file

from mindsora.ckpt_convert import open_checkpoint
from mindsora.ckpt_convert.recognise import recognise


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


def large_t5(path, rows):
    """A folder of a T5 with a table of this many rows of 64 bytes."""
    golden = Golden("t5_v1_1_encoder_masked")
    table = np.zeros((rows, golden.weights["shared.weight"].shape[1]), np.float16)
    return folder_of(path, golden.weights | {"shared.weight": table}, golden.config | {"vocab_size": rows})


def tensor_parallel():
    """The golden SUV, the weights of its two tensor-parallel ranks, and the same merged."""
    golden = Golden("suv_tp2_checkpoint")
    for note in ("tensor_parallel", "note"):
        del golden.config[note]
    ranks = [
        {
            key.removeprefix(f"rank0{rank}/"): value
            for key, value in golden.inputs.items()
            if key.startswith(f"rank0{rank}/")
        }
        for rank in (0, 1)
    ]
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
        torch.save(
            {
                "args": argparse.Namespace(hidden_size=32, dtype=torch.bfloat16, names=["a"]),
                "iteration": 1000,
                "checkpoint_version": 3.0,
                "model": tensors,
                "rng_state": [{"random_rng_state": random.getstate(), "np_rng_state": np.random.get_state()}],
                **{
                    name: {key: torch.from_numpy(value) for key, value in states[rank].items()}
                    for name, states in more.items()
                },
            },
            path / "model_optim_rng.pt",
        )
    (folder / "latest_checkpointed_iteration.txt").write_text(iteration)
    return folder
