"""WF-VAE against upstream's numbers, whole against chunked, PyNative against graph.

Sums run in another order than upstream's: the limits are 2e-5 for moments and 5e-5 for pixels (magnitude 1 to 3), ten
times what an independent float32 implementation differed by.
"""

import json

import mindspore as ms
import numpy as np
import pytest
from cell_checks import check_released_shapes, check_training_gradients
from golden_file import FOLDER, Golden, assert_close
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

from mindsora.ckpt_convert import load, upstream_state
from mindsora.errors import InputError
from mindsora.models import WFVAE
from mindsora.models.wfvae import Posterior, WFVAEConfig

ENCODE, DECODE = 2e-5, 5e-5
CLIPS = {
    "wfvae888": ("f1_32x32", "f9_48x32", "f17_32x32"),
    "wfvae488": ("f1_32x32", "f9_48x32", "f17_32x24", "f25_24x24"),
    "wfvae888_chunked": ("f25_16x24", "f33_32x32"),
    "wfvae488_chunked": ("f25_16x24", "f33_24x32"),
}
CASES = [(name, clip) for name, clips in CLIPS.items() for clip in clips]
RELEASED = json.loads((FOLDER / "keys/autoencoders.json").read_text())


@pytest.fixture(scope="module")
def models():
    """Fixture name -> (its Golden, the model filled with its weights)."""
    goldens = {name: Golden(name) for name in CLIPS}
    return {name: (golden, load(WFVAE.from_upstream(golden.config), golden.weights)) for name, golden in goldens.items()}


@pytest.mark.parametrize("name, clip", CASES)
def test_encode_matches_upstream(models, run, name, clip):
    golden, vae = models[name]
    moments = run(vae.encode_moments, golden.tensor(f"video_{clip}"))
    assert_close(moments, golden.outputs[f"moments_{clip}"], ENCODE)


@pytest.mark.parametrize("name, clip", CASES)
def test_decode_matches_upstream(models, run, name, clip):
    golden, vae = models[name]
    mode = Posterior.from_moments(Tensor(golden.outputs[f"moments_{clip}"])).mode()
    assert_close(run(vae.decode, mode), golden.outputs[f"recon_{clip}"], DECODE)


@pytest.mark.parametrize("name, clip", [case for case in CASES if "chunked" in case[0]])
def test_chunked_matches_upstreams_chunked(models, name, clip):
    golden, vae = models[name]
    assert_close(vae.encode_moments(golden.tensor(f"video_{clip}"), True), golden.outputs[f"moments_chunked_{clip}"], ENCODE)
    mode = Posterior.from_moments(Tensor(golden.outputs[f"moments_{clip}"])).mode()
    assert_close(vae.decode(mode, True), golden.outputs[f"recon_chunked_{clip}"], DECODE)


@pytest.mark.parametrize("name", ["wfvae888", "wfvae488"])
def test_every_legal_length_in_chunks_equals_the_whole(models, name):
    """Images included, and lengths upstream refuses (1, 9) or decodes wrongly (4x8x8 with an even number of latents)."""
    _, vae = models[name]
    rng = np.random.default_rng(0)
    for frames in range(1, 50, vae.config.temporal_stride):
        x = Tensor(rng.standard_normal((1, 3, frames, 16, 16), np.float32))
        whole = vae.encode_moments(x)
        assert_close(vae.encode_moments(x, True), whole.asnumpy(), 2e-6)  # same sums, other tile shapes
        z = Posterior.from_moments(whole).mode()
        pixels = vae.decode(z).asnumpy()
        assert pixels.shape[2] == frames
        for latents in (1, 2, 3):
            assert_close(vae.decode(z, True, latents), pixels, 1e-5)


def test_chunks_compile_and_agree(models):
    """The chunk functions the pipeline compiles: first, later with look-ahead, last."""
    _, vae = models["wfvae888"]
    z = Tensor(np.random.default_rng(1).standard_normal((1, 8, 4, 2, 2), np.float32))
    step = ms.jit(vae.decode_chunk)
    first, state = step(z[:, :, :1])
    middle, state = step(z[:, :, 1:3], state)
    last, _ = step(z[:, :, 2:], state)
    pieces = np.concatenate([first.asnumpy(), middle.asnumpy()[:, :, :8], last.asnumpy()], 2)
    assert_close(pieces, vae.decode(z).asnumpy(), 1e-5)


def test_posterior_and_latent_scale_match_upstream(models):
    golden, vae = models["wfvae888"]
    posterior = Posterior.from_moments(Tensor(golden.outputs["moments_f1_32x32"]))
    assert_close(posterior.logvar, golden.outputs["logvar_clamped_f1_32x32"], 0)
    # MindSpore's exponential on CPU is off by 6e-6 of its value; values here are about 1.
    assert_close(posterior.std(), golden.outputs["std_f1_32x32"], 1e-5)
    assert_close(posterior.sample(golden.tensor("noise_f1_32x32")), golden.outputs["sample_f1_32x32"], 2e-5)
    kl = golden.outputs["kl_sum_over_dims_1_2_3_f1_32x32"]
    assert_close(posterior.kl(), kl, 1e-5 * np.abs(kl).max())  # a sum of 32 terms
    scaled = WFVAE.from_upstream(
        golden.config | {"scale": golden.inputs["scale"].tolist(), "shift": golden.inputs["shift"].tolist()}
    )
    for clip in CLIPS["wfvae888"]:
        mode = Tensor(golden.outputs[f"mode_{clip}"])
        latents = scaled.normalise_latents(mode)
        assert_close(latents, golden.outputs[f"latents_normalised_{clip}"], 1e-5)
        assert_close(scaled.denormalise_latents(latents), mode.asnumpy(), 1e-5)


class _Reconstruction(nn.Cell):
    """Pixels decoded from the mean, and the log-variance, in one row: every parameter has a part in it."""

    def __init__(self, vae):
        super().__init__(auto_prefix=False)
        self.vae = vae

    def construct(self, x):
        mean, logvar = self.vae.encode_moments(x).chunk(2, axis=1)
        return ops.concat((self.vae.decode(mean).reshape(-1), logvar.reshape(-1)))


@pytest.mark.parametrize("name", ["wfvae888_chunked", "wfvae488_chunked"])
def test_gradients_under_jit_equal_pynative(models, name):
    golden, vae = models[name]
    x = golden.tensor("video_f25_16x24")[:, :, :9]
    model = _Reconstruction(vae)
    target = Tensor(np.random.default_rng(2).standard_normal(model(x).shape, np.float32))
    # A key's bias moves all scores of a query alike, which softmax does not see.
    check_training_gradients(model, (x,), target, cancelled=("mid.1.k.conv.bias",))


@pytest.mark.parametrize("name", [name for name in RELEASED if name.startswith("wfvae")])
def test_released_sizes_have_upstreams_keys_and_shapes(name):
    with no_init_parameters():
        vae = WFVAE.from_upstream(RELEASED[name]["config"])
    check_released_shapes(vae, RELEASED[name]["tensors"])


def test_export_gives_back_every_tensor(models):
    golden, vae = models["wfvae488"]
    state = upstream_state(vae)
    assert state.keys() == golden.weights.keys()
    for name, value in golden.weights.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_loading_lists_everything_that_is_wrong(models):
    golden, vae = models["wfvae888"]
    broken = dict(golden.weights)
    broken["encoder.spare"] = broken.pop("decoder.conv_in.conv.bias")
    broken["decoder.conv_out.bias"] = np.zeros(5, np.float32)
    with pytest.raises(InputError, match=r"missing.*conv_in.conv.bias.*unexpected.*encoder.spare.*\(5,\), expected \(24,\)"):
        load(vae, broken)


def test_config_round_trip_and_errors():
    config = WFVAEConfig.from_upstream(Golden("wfvae488").config)
    assert WFVAEConfig.from_upstream(config.to_upstream()) == config
    with pytest.raises(InputError, match="latent_dims.*latent_dim"):
        WFVAEConfig.from_upstream(config.to_upstream() | {"latent_dims": 8})
    with pytest.raises(InputError, match="layernorm"):
        WFVAEConfig.from_upstream(config.to_upstream() | {"norm_type": "groupnorm"})
    with pytest.raises(InputError, match="3 values for 4"):
        WFVAEConfig(latent_dim=4, scale=(1.0, 2.0, 3.0))


@pytest.mark.parametrize("frames", [2, 8, 10])
def test_illegal_lengths_are_refused(models, frames):
    _, vae = models["wfvae888"]
    with pytest.raises(ValueError, match="r n"):
        vae.encode(Tensor(np.zeros((1, 3, frames, 16, 16), np.float32)))
