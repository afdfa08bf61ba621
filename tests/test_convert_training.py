"""Checkpoints of training: MindSpeed-MM's ranks, read and written, and upstream's autoencoder trainer."""

import json

import numpy as np
import pytest
import torch
from checkpoint_files import folder_of, hashes, tensor_parallel, write_ranks
from golden_file import Golden, assert_close
from mindspore import Tensor

from mindsora.ckpt_convert import convert, load, open_checkpoint
from mindsora.ckpt_convert.recognise import build_cell
from mindsora.cli import main
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.models import SUV
from mindsora.models.suv.names import TABLE


@pytest.fixture(scope="module")
def tp2():
    return tensor_parallel()


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
    order = (
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "pooled_projections",
        "attention_mask",
        "encoder_attention_mask",
    )
    assert_close(suv(*(golden.tensor(name) for name in order)), golden.outputs["sample"], 1e-4)  # the limit for SUV


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_splitting_and_merging_is_exact(tp, tmp_path):
    # heads that 8 divides; the golden checkpoint has two
    config = {
        "num_layers": [2, 2, 2],
        "sparse_n": [1, 2, 1],
        "num_heads": 8,
        "head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "timestep_embed_dim": 16,
        "caption_channels": 12,
        "pooled_projection_dim": 14,
        "last_block_text": True,
    }
    rng = np.random.default_rng(0)
    cell = build_cell("SUV", config)
    state = {
        TABLE.upstream_name(p.name): rng.standard_normal(p.shape).astype(np.float16) for p in cell.get_parameters()
    }
    assert (
        sum(
            "transformer_blocks.2.1" in name and ("to_add_out" in name or "ff_enc" in name or "norm2.norm_enc" in name)
            for name in state
        )
        == 6
    )
    source = folder_of(tmp_path / "source", state, config)
    report = convert(source, tmp_path / "mm", tp=tp)
    ranks = [
        torch.load(tmp_path / "mm/release" / f"mp_rank_{i:02d}" / "model_optim_rng.pt", weights_only=True)
        for i in range(tp)
    ]
    assert report.nbytes == sum(tensor.nbytes for rank in ranks for tensor in rank["model"].values())
    rank = ranks[-1]
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
            own = {
                key.replace(prefix, "transformer_blocks.0."): value
                for key, value in state.items()
                if key.startswith(prefix)
            }
            if stage != 1:  # embeddings first, head and skips last
                own |= {key: value for key, value in state.items() if not key.startswith("transformer_blocks.")}
            path = tmp_path / "mm" / "iter_0000005" / f"mp_rank_{rank:02d}_{stage:03d}"
            path.mkdir(parents=True)
            torch.save(
                {"model": {key: torch.from_numpy(value) for key, value in own.items()}}, path / "model_optim_rng.pt"
            )
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
    torch.save(
        {
            "ema_state_dict": {f"module.{key}": torch.from_numpy(2 * value) for key, value in trainable.items()},
            "state_dict": {"gen_model": live, "dics_model": {"main.0.weight": torch.zeros(3)}},
            "epoch": 1,
            "optimizer_state": {
                "gen_optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-5}]}
            },
        },
        tmp_path / "merged.ckpt",
    )
    with open_checkpoint(tmp_path / "merged.ckpt") as checkpoint:
        assert checkpoint.wrapper == "ema_state_dict, module." and checkpoint.choices == ("state_dict.gen_model",)
    report = convert(tmp_path / "merged.ckpt", tmp_path / "ema")
    assert report.assumed == {"t_interpolation": "trilinear", "scale": [0.18215], "shift": [0.0]}
    assert report.assumed.items() <= read_json(tmp_path / "ema/config.json").items()
    with open_checkpoint(tmp_path / "ema") as checkpoint:
        name = "encoder.conv_out.conv.weight"
        np.testing.assert_array_equal(checkpoint[name].numpy(), 2 * golden.weights[name])
        assert checkpoint.keys() == golden.weights.keys()  # the Haar kernels are present again
    convert(tmp_path / "merged.ckpt", tmp_path / "live", ema=False)
    source = folder_of(tmp_path / "source", golden.weights, {})
    assert hashes(tmp_path / "live") == hashes(source)


def wrapped(prefix="vae.", **settings):
    """The golden autoencoder as tensors of the wrapper for diffusion, with its scale and shift."""
    golden = Golden("wfvae888")
    tensors = {prefix + key: torch.from_numpy(value) for key, value in golden.weights.items()}
    own = {key: torch.from_numpy(golden.inputs[key]).reshape(1, -1, 1, 1, 1) for key in ("scale", "shift")}
    return golden, tensors | own | settings


@pytest.mark.parametrize("prefix", ["model.", "vae."])
def test_an_autoencoder_wrapped_for_diffusion(prefix, tmp_path, capsys):
    """The written config.json holds its scale and shift, and keeps them through MindSpore's format and back."""
    golden, tensors = wrapped(prefix)
    torch.save(tensors, tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "folder"), "--quiet"]) == 0
    assert "so assumed: t_interpolation = trilinear\n" in capsys.readouterr().out
    config = read_json(tmp_path / "folder/config.json")
    convert(tmp_path / "folder", tmp_path / "mindspore", to="mindspore")
    convert(tmp_path / "mindspore", tmp_path / "back", to="torch")
    plain = hashes(folder_of(tmp_path / "plain", golden.weights, golden.config))
    for name in ("folder", "mindspore", "back"):
        assert read_json(tmp_path / name / "config.json") == config
        assert hashes(tmp_path / name).items() <= plain.items()
    assert hashes(tmp_path / "back") == plain
    vae = load(build_cell("WFVAE", config), tmp_path / "x.pt")
    for key in ("scale", "shift"):
        np.testing.assert_array_equal(np.float32(getattr(vae.config, key)), golden.inputs[key])
    latents = vae.normalise_latents(Tensor(golden.outputs["mode_f1_32x32"]))
    assert_close(latents, golden.outputs["latents_normalised_f1_32x32"], 1e-5)  # as in test_wfvae


def test_one_file_has_no_place_for_scale_and_shift(tmp_path, capsys):
    torch.save(wrapped()[1], tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "x.ckpt"), "--quiet"]) == 0
    assert "warning: the source's scale and shift belong in a config.json" in capsys.readouterr().out
    assert convert(tmp_path / "x.pt", tmp_path / "folder").warnings == []
    report = convert(tmp_path / "x.ckpt", tmp_path / "y")
    assert (report.assumed["scale"], report.assumed["shift"], report.warnings) == ([0.18215], [0.0], [])


def test_loading_a_wrapped_autoencoder_into_a_cell_of_another_scale(tmp_path):
    """The mismatch is refused, because it would otherwise give wrong latents silently."""
    golden, tensors = wrapped()
    torch.save(tensors, tmp_path / "x.pt")
    vae = build_cell("WFVAE", golden.config)
    for source in (tmp_path / "x.pt", {key: value.numpy() for key, value in tensors.items()}):
        with pytest.raises(
            InputError, match=r"the tensor 'scale' says \[.*the Cell's configuration scale = \(0.18215,"
        ):
            load(vae, source)


def test_a_config_beside_a_wrapped_autoencoder(tmp_path):
    """It keeps its digits where the tensors equal it after rounding; another value is a contradiction."""
    golden, tensors = wrapped(scale=torch.full((1, 8, 1, 1, 1), 0.18215, dtype=torch.bfloat16))
    torch.save(tensors, tmp_path / "x.pt")
    for given in ([0.18215], [0.18215] * 8):
        (tmp_path / "config.json").write_text(json.dumps(golden.config | {"scale": given}))
        target = tmp_path / f"folder{len(given)}"
        convert(tmp_path / "x.pt", target)
        assert read_json(target / "config.json")["scale"] == given
    for given in ([0.2], [0.18215] * 4, "a", None):
        (tmp_path / "config.json").write_text(json.dumps(golden.config | {"scale": given}))
        with pytest.raises(InputError, match=r"scale = .* \(the tensor 'scale' says \[0.182617, "):
            convert(tmp_path / "x.pt", tmp_path / "y")


@pytest.mark.parametrize(
    "shift, match",
    [
        (torch.zeros(8, dtype=torch.int64), "8 values of int64"),
        (torch.zeros(5000), "5000 values of .*at most 4096"),
        (torch.full((8,), torch.nan), "infinite values or NaN"),
        (torch.arange(7.0), "shift has 7 values for 8 latent"),
    ],
    ids=["integers", "too many", "NaN", "another number"],
)
def test_a_shift_that_is_none(shift, match, tmp_path):
    torch.save(wrapped(shift=shift)[1], tmp_path / "x.pt")
    with pytest.raises(InputError, match=match):
        convert(tmp_path / "x.pt", tmp_path / "y", allow_nonfinite=True)
    assert not (tmp_path / "y").exists()
