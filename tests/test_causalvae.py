"""CausalVAE against upstream's numbers, whole against chunked, PyNative against graph.

Limits as for WF-VAE: sums run in another order than upstream's.
"""

import json

import numpy as np
import pytest
from cell_checks import Reconstruction, check_lengths, check_released_shapes, check_training_gradients
from checkpoint_files import folder_of
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor
from test_convert_config import inferred

from mindsora.ckpt_convert import convert, load, upstream_state
from mindsora.ckpt_convert.recognise import build_cell
from mindsora.errors import InputError
from mindsora.models import WFVAE, CausalVAE, CausalVAEConfig
from mindsora.nn.video_group_norm import GroupNorm

ENCODE, DECODE = 2e-5, 5e-5
CLIPS = ("f1_32x32", "f9_48x32", "f17_24x32")
RELEASED = json.loads((FOLDER / "keys/autoencoders.json").read_text())
VERSIONS = {"causalvae_v1_1": 246_859_499, "causalvae_v1_2": 239_189_991}  # parameters


@pytest.fixture(scope="module")
def golden():
    return Golden("causalvae")


@pytest.fixture(scope="module")
def vae(golden):
    return load(CausalVAE.from_upstream(golden.config), golden.weights)


def tiny(version: str, hidden_size: int = 32) -> CausalVAE:
    """A small model with a released topology, or with upstream's defaults, which match v1.0."""
    config = {} if version == "defaults" else RELEASED[version]["config"]
    small = {"hidden_size": hidden_size, "hidden_size_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return CausalVAE.from_upstream(config | small)


@pytest.mark.parametrize("clip", CLIPS)
def test_encode_matches_upstream(golden, vae, run, clip):
    moments = run(vae.encode_moments, golden.tensor(f"video_{clip}"))
    assert_close(moments, golden.outputs[f"moments_{clip}"], ENCODE)


@pytest.mark.parametrize("clip", CLIPS)
def test_decode_matches_upstream(golden, vae, run, clip):
    assert_close(run(vae.decode, Tensor(golden.outputs[f"mode_{clip}"])), golden.outputs[f"recon_{clip}"], DECODE)


def test_posterior_and_latent_scale(golden, vae):
    mode = vae.encode(golden.tensor("video_f1_32x32")).mode()
    assert_close(mode, golden.outputs["mode_f1_32x32"], ENCODE)
    latents = vae.normalise_latents(mode)
    np.testing.assert_allclose(latents.asnumpy(), 0.18215 * mode.asnumpy(), rtol=1e-6)
    assert_close(vae.denormalise_latents(latents), mode.asnumpy(), 1e-5)


def test_chunks_match_upstream(golden, vae):
    moments = vae.encode_moments(golden.tensor("video_f17_24x32"), chunked=True)
    assert_close(moments, golden.outputs["moments_f17_24x32"], ENCODE)
    pieces = list(vae.decode_chunks(Tensor(golden.outputs["mode_f17_24x32"])))
    assert [piece.shape[2] for piece in pieces] == [5, 12]  # two latent frames, then three
    assert_close(np.concatenate([piece.asnumpy() for piece in pieces], 2), golden.outputs["recon_f17_24x32"], DECODE)


@pytest.mark.parametrize("version", [*(pytest.param(one, marks=pytest.mark.full) for one in VERSIONS), "defaults"])
def test_chunks_equal_the_whole(version):
    check_lengths(tiny(version), (1, 5, 21))


@pytest.mark.slow
@pytest.mark.parametrize("version", [*VERSIONS, "defaults"])
def test_chunks_of_every_legal_length_equal_the_whole(version):
    check_lengths(tiny(version), range(1, 98, 4))


def test_group_norm_of_a_clip_far_from_zero(run):
    """Mean 1000, deviation 1: plain squares lose the variance, centred squares keep it. float64 is the reference."""
    x = 1000 + np.random.default_rng(0).standard_normal((1, 6, 8, 8, 64)).astype(np.float32)
    norm = GroupNorm(64)

    def normalised(*parts):
        factors = norm.factors(parts)
        return norm(parts[0], factors)

    y = run(normalised, Tensor(x[:, :2]), Tensor(x[:, 2:]))
    groups = x.astype(np.float64).reshape(-1, 32, 2)
    expected = (groups - groups.mean((0, 2), keepdims=True)) / groups.std((0, 2), keepdims=True)
    # float32's steps at 1000 are 6e-5: the mean, a sum of 768 such numbers, is good to two of them
    assert_close(y, expected.reshape(x.shape)[:, :2], 2e-4)


@pytest.mark.full
@pytest.mark.parametrize("version", VERSIONS)
def test_gradients_under_jit_equal_pynative(version):
    """64 channels: with one channel to a group, norms would cancel the biases before them."""
    model = Reconstruction(tiny(version, hidden_size=64))
    x = Tensor(np.random.default_rng(1).standard_normal((1, 3, 9, 16, 8), np.float32))
    target = Tensor(np.random.default_rng(2).standard_normal(model(x).shape, np.float32))
    # A key's bias shifts all scores of a query equally, and softmax cancels the shift.
    check_training_gradients(model, (x,), target, cancelled=("mid.attn_1.k.conv.bias",))


@pytest.mark.parametrize("version", VERSIONS)
def test_released_sizes_have_upstreams_keys_and_shapes(version):
    vae = build_cell("CausalVAE", RELEASED[version]["config"])
    check_released_shapes(vae, RELEASED[version]["tensors"], VERSIONS[version])
    assert (vae.config.latent_dim, vae.config.temporal_stride) == (4, 4)


@pytest.mark.parametrize("version", VERSIONS)
def test_released_configuration_from_shapes(version, tmp_path):
    found = inferred(tmp_path, RELEASED[version]["tensors"])
    config = {key: value for key, value in RELEASED[version]["config"].items() if key != "attn_resolutions"}
    assert (found.model, found.dropped) == ("CausalVAE", [])
    assert config.items() <= found.config.items()
    assert CausalVAEConfig.from_upstream(found.config) == CausalVAEConfig.from_upstream(RELEASED[version]["config"])


def test_configuration_without_weights_that_tell(tmp_path):
    """Interpolation in time has no weights: upstream's defaults apply unless a config.json says otherwise."""
    vae = tiny("defaults")
    assert inferred(tmp_path, {name: x.shape for name, x in upstream_state(vae).items()}).assumed == {
        "encoder_attention": "AttnBlock3D",
        "encoder_temporal_downsample": ["", "TimeDownsample2x", "TimeDownsample2x", ""],
        "decoder_attention": "AttnBlock3D",
        "decoder_temporal_upsample": ["", "", "TimeUpsample2x", "TimeUpsample2x"],
    }
    given = vae.config.to_upstream() | {"encoder_attention": "AttnBlock3DFix"}
    convert(folder_of(tmp_path / "source", upstream_state(vae), given), tmp_path / "x")
    read = json.loads((tmp_path / "x" / "config.json").read_text())
    assert CausalVAEConfig.from_upstream(read) == CausalVAEConfig.from_upstream(given)


def test_export_gives_back_every_tensor(golden, vae):
    state = upstream_state(vae)
    assert state.keys() == golden.weights.keys()
    for name, value in golden.weights.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_weights_of_the_other_autoencoder_are_named(golden):
    with pytest.raises(InputError, match="does not fit WFVAE; it has the names of CausalVAE"):
        load(WFVAE.from_upstream(Golden("wfvae488").config), golden.weights)


def test_config_round_trip_and_errors(golden):
    config = CausalVAEConfig.from_upstream(golden.config)
    given = config.to_upstream()
    assert CausalVAEConfig.from_upstream(given) == config
    for change, message in (
        ({"z_chanels": 4}, "z_chanels.*z_channels"),
        ({"norm_type": "layernorm"}, "norm_type = 'layernorm'"),
        ({"encoder_attention": "AttnBlock"}, "encoder_attention: 'AttnBlock' is none of .*AttnBlock3DFix"),
        ({"decoder_spatial_upsample": ["", "SpatialUpsample2x"]}, "2 entries for 4 levels"),
        ({"hidden_size": 40}, "1 x 40 channels .* 32 groups"),
        ({"encoder_temporal_downsample": ["TimeDownsample2x", "", "", ""]}, r"\(8, 8\) in the encoder, \(4, 8\)"),
    ):
        with pytest.raises(InputError, match=message):
            CausalVAEConfig.from_upstream(given | change)


@pytest.mark.parametrize("shape", [(2, 16, 16), (9, 12, 16), (9, 16, 20)])
def test_illegal_sizes_are_refused(vae, shape):
    with pytest.raises(ValueError, match="r n"):
        vae.encode(Tensor(np.zeros((1, 3, *shape), np.float32)))
