"""The PyTorch twins that benchmarks/against_torch.py times compute what our models compute, here at toy size."""

import importlib
import sys
from pathlib import Path

import pytest

TOYS = {
    "wfvae_encode": (
        {
            "latent_dim": 4,
            "base_channels": 8,
            "encoder_num_resblocks": 1,
            "decoder_num_resblocks": 2,
            "encoder_energy_flow_hidden_size": 4,
            "decoder_energy_flow_hidden_size": 6,
            "connect_res_layer_num": 1,
            "t_interpolation": "trilinear",
        },
        {"frames": 17, "height": 16, "width": 24},
    ),
    "suv_forward": (
        {
            "num_layers": [2, 2, 2],
            "sparse_n": [1, 2, 1],
            "num_heads": 2,
            "head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "timestep_embed_dim": 32,
            "caption_channels": 24,
            "pooled_projection_dim": 20,
            "patch_size": 2,
        },
        {"latents": (3, 6, 10), "text": 7},
    ),  # 45 tokens: sub-sequences with padding
    "t5": ({"vocab_size": 50, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_heads": 3, "num_layers": 2}, {"tokens": 30}),
}
TOYS |= {"wfvae_decode": TOYS["wfvae_encode"], "suv_training": TOYS["suv_forward"]}


@pytest.fixture(scope="module")
def against_torch():
    """Import the script with its own folder on the path, as when it runs."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("against_torch")
    sys.path.pop(0)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.full] if kind in ("suv_training", "wfvae_decode") else [])
        for kind in sorted(TOYS)
    ],
)
def test_twin_equals_ours(against_torch, kind):
    """A training step returns its loss and the norm of all gradients together."""
    config, shape = TOYS[kind]
    ours, state = against_torch.mindsora_call(kind, config, shape)
    theirs = against_torch.torch_call(kind, config, shape, state)
    for _ in range(2):
        # 2e-5 of the largest number: float32 sums in another order, a few layers deep
        assert against_torch.agree(ours(), theirs()) < 2e-5


def test_every_work_has_a_toy(against_torch):
    assert {kind for kind, *_ in against_torch.WORKS.values()} == TOYS.keys()


def test_a_wrong_twin_is_found(against_torch):
    ours, state = against_torch.mindsora_call("t5", *TOYS["t5"])
    state["encoder.final_layer_norm.weight"] = state["encoder.final_layer_norm.weight"] * 1.01
    theirs = against_torch.torch_call("t5", *TOYS["t5"], state)
    with pytest.raises(ValueError, match="results differ by"):
        against_torch.agree(ours(), theirs())


def test_profile_names_operators(against_torch, monkeypatch):
    monkeypatch.setitem(against_torch.WORKS, "toy", ("wfvae_encode", *TOYS["wfvae_encode"], 1.0, 1.0))
    for side, operator in (("mindsora", "Conv"), ("pytorch", "convolution")):
        shares = against_torch.profile("toy", side, 1)
        assert (any(operator in name for name in shares) and 99 < sum(shares.values()) < 100.5) or len(shares) == 15
