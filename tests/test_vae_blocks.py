"""The autoencoders' layers one by one, and the Haar transforms, against upstream's numbers.

The limit is 2e-6 for results of a few sums and 1e-5 after convolutions: float32 sums in another order.
"""

import numpy as np
import pytest
from golden_file import Golden, assert_close
from mindspore import Tensor

from mindsora.models.autoencoder import Posterior
from mindsora.models.wfvae.model import AttentionBlock, ResnetBlock3D, Upsample2D
from mindsora.models.wfvae.names import TABLE
from mindsora.nn import video_group_norm
from mindsora.nn.conv import CausalConv3d
from mindsora.nn.haar import haar2d, haar3d, inverse_haar2d, inverse_haar3d
from mindsora.nn.video import (
    Downsample,
    SpatialDownsample,
    SpatialUpsample,
    TimeDownsample,
    TimeDownsampleMixed,
    TimeUpsample,
    TimeUpsampleMixed,
    Upsample3D,
)

BLOCKS = {
    "resnet3d_layernorm": lambda: ResnetBlock3D(10, 14),
    "attn3dfix_layernorm": lambda: AttentionBlock(12),
    "downsample2d": lambda: Downsample(6, temporal=False),
    "spatial2x_time2x_downsample": lambda: Downsample(6, temporal=True),
    "upsample2d": lambda: Upsample2D(6),
    "spatial2x_time2x_upsample_trilinear": lambda: Upsample3D(6, linear=True, lookahead=1),
    "spatial2x_time2x_upsample_trilinear_1frame": lambda: Upsample3D(6, linear=True, lookahead=1),
    "spatial2x_time2x_upsample_nearest": lambda: Upsample3D(6, linear=False, lookahead=1),
    "spatial2x_time2x_upsample_nearest_1frame": lambda: Upsample3D(6, linear=False, lookahead=1),
    "causal_conv3d_k1": lambda: CausalConv3d(5, 7, kernel=1),
    "causal_conv3d_k3s1": lambda: CausalConv3d(5, 7),
    "causal_conv3d_k3s2": lambda: CausalConv3d(5, 7, stride=2),
    "spatial_downsample2x": lambda: SpatialDownsample(6),
    "spatial_upsample2x": lambda: SpatialUpsample(6),
    "time_downsample2x": lambda: TimeDownsample(6),
    "time_downsample_res2x": lambda: TimeDownsampleMixed(6),
    "time_upsample2x": lambda: TimeUpsample(6),
    "time_upsample_res2x": lambda: TimeUpsampleMixed(6),
}
GROUPED = {  # called with all chunks of a clip
    "resnet2d_groupnorm": lambda: video_group_norm.ResnetBlock2D(32, 64),
    "resnet3d_groupnorm": lambda: video_group_norm.ResnetBlock3D(64, 32),
    "attn3dfix_groupnorm": lambda: video_group_norm.AttentionBlock(64),
    "attn3d_legacy_groupnorm": lambda: video_group_norm.MixedAttentionBlock(32),
}


@pytest.fixture(scope="module")
def blocks():
    return Golden("vae_blocks")


@pytest.fixture(scope="module")
def haar():
    return Golden("haar")


def channels_last(array):
    return Tensor(np.ascontiguousarray(array.transpose(0, 2, 3, 4, 1)))


def channels_first(tensor):
    return tensor.asnumpy().transpose(0, 4, 1, 2, 3)


@pytest.mark.parametrize("name", BLOCKS)
def test_block_matches_upstream(blocks, run, name):
    block = BLOCKS[name]()
    for parameter in block.get_parameters():
        # The table's rule for norms needs a prefix.
        key = TABLE.upstream_name(f"block.{parameter.name}").removeprefix("block.")
        parameter.set_data(Tensor(blocks.weights[f"{name}.{key}"]))

    def output(x):
        return block(x)[0]  # graph mode cannot return a state that is None

    y = run(output, channels_last(blocks.inputs[name]))
    assert_close(channels_first(y), blocks.outputs[name], 1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_group_norm_block_matches_upstream(blocks, run, name):
    block = GROUPED[name]()
    for parameter in block.get_parameters():
        parameter.set_data(Tensor(blocks.weights[f"{name}.{parameter.name}"]))

    def output(x):
        return block((x,))[0]

    y = run(output, channels_last(blocks.inputs[name]))
    assert_close(channels_first(y), blocks.outputs[name], 1e-5)


def test_every_block_of_the_fixture_is_compared(blocks):
    compared = BLOCKS.keys() | GROUPED.keys()
    assert {name for name in blocks.inputs if not name.startswith("posterior")} == compared


def test_posterior_matches_upstream_where_log_variance_is_clamped(blocks):
    posterior = Posterior.from_moments(blocks.tensor("posterior_moments"))
    raw = blocks.inputs["posterior_moments"][:, 4:]
    assert raw.max() > 20 or raw.min() < -30  # the fixture does reach the limits
    assert_close(posterior.mean, blocks.outputs["posterior_mean"], 0)
    assert_close(posterior.logvar, blocks.outputs["posterior_logvar"], 0)
    # Relative, because values reach exp(10): MindSpore's exponential on CPU is off by 6e-6 of its value.
    np.testing.assert_allclose(posterior.std().asnumpy(), blocks.outputs["posterior_std"], rtol=1e-5)
    sample = posterior.sample(blocks.tensor("posterior_noise")).asnumpy()
    np.testing.assert_allclose(sample, blocks.outputs["posterior_sample"], rtol=1e-5, atol=1e-5)
    kl = blocks.outputs["posterior_kl_of_0p05_moments"]
    small = Posterior.from_moments(0.05 * blocks.tensor("posterior_moments"))
    assert_close(small.kl(), kl, 1e-5 * np.abs(kl).max())
    compared = {f"posterior_{name}" for name in ("mean", "logvar", "std", "sample", "kl_of_0p05_moments")}
    assert {name for name in blocks.outputs if name.startswith("posterior")} == compared


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_haar3d_matches_upstream(haar, run, frames):
    """An even number of frames loses its last one, as upstream."""
    assert_close(
        channels_first(run(haar3d, channels_last(haar.inputs[f"x_f{frames}"]))), haar.outputs[f"haar3d_f{frames}"], 2e-6
    )


def test_haar3d_in_chunks(haar):
    x = channels_last(haar.inputs["x_f9"])
    assert_close(channels_first(haar3d(x[:, :1])), haar.outputs["haar3d_f9_chunk0"], 2e-6)
    assert_close(channels_first(haar3d(x[:, 1:], first_chunk=False)), haar.outputs["haar3d_f9_chunk1"], 2e-6)


@pytest.mark.parametrize("first", [True, False])
def test_inverse_haar3d_matches_upstream(haar, first):
    y = inverse_haar3d(channels_last(haar.inputs["coeffs3d"]), first)
    assert_close(channels_first(y), haar.outputs[f"inverse_haar3d_{'first' if first else 'later'}_chunk"], 2e-6)


def test_haar2d_matches_upstream_both_ways(haar, run):
    x = channels_last(haar.inputs["x_f9"])
    assert_close(channels_first(run(haar2d, x)), haar.outputs["haar2d_f9"], 2e-6)
    assert_close(
        channels_first(run(inverse_haar2d, channels_last(haar.inputs["coeffs2d"]))),
        haar.outputs["inverse_haar2d"],
        2e-6,
    )
