"""Spatial tiles: weights, blending, and exact results."""

import numpy as np
import pytest
from golden_file import Golden, assert_close
from mindspore import Tensor

from mindsora.ckpt_convert import load
from mindsora.errors import InputError
from mindsora.models import WFVAE, CausalVAE, Tiling
from mindsora.models.tiling import Axis, Grid

TILES = ((1, 0), (4, 0), (4, 2), (8, 7))
AXES = [(length, size, overlap) for length in (1, 5, 8, 9, 13, 40) for size, overlap in TILES]


@pytest.fixture(scope="module", params=[(WFVAE, "wfvae488"), (CausalVAE, "causalvae")], ids=["WFVAE", "CausalVAE"])
def vae(request):
    model, name = request.param
    golden = Golden(name)
    return load(model.from_upstream(golden.config), golden.weights)


def latents(vae, frames, height, width):
    shape = (1, vae.config.latent_dim, frames, height, width)
    return Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("length, size, overlap", AXES)
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(length, size, overlap):
    axis = Axis.cover(length, size, overlap)
    assert axis.starts[0] == 0 and axis.starts[-1] + axis.size == length
    assert axis.size == min(size, length)
    assert all(0 < b - a <= axis.size - overlap for a, b in zip(axis.starts, axis.starts[1:]))
    for unit in (1, 8):
        weights = axis.weights(unit)
        np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-6)
        for share, start in zip(weights, axis.starts):  # positive inside the tile, zero outside
            inside = np.arange(length * unit) // unit - start
            np.testing.assert_array_equal(share > 0, (inside >= 0) & (inside < axis.size))


def test_two_tiles_blend_linearly_and_only_where_both_are():
    axis = Axis.cover(12, 8, 4)  # tiles 0..7 and 4..11
    joined = axis.join([Tensor(np.full((1, 8), value, np.float32)) for value in (1, 3)], 1).asnumpy()[0]
    np.testing.assert_allclose(joined, [1] * 4 + [1.25, 1.75, 2.25, 2.75] + [3] * 4, rtol=1e-6)
    assert set(joined[:4]) == {1} and set(joined[8:]) == {3}


@pytest.mark.parametrize("height, width, size, overlap", [(9, 13, 4, 1), (4, 30, 8, 0), (11, 3, 5, 4)])
def test_what_was_cut_joins_to_what_it_was(height, width, size, overlap):
    for unit in (1, 8):
        x = np.random.default_rng(0).standard_normal((2, 3, 2, height * unit, width * unit), np.float32)
        grid = Grid(height, width, Tiling(8 * size, 8 * overlap))
        tiles = grid.cut(Tensor(x))
        assert {part.shape for part in tiles} == {(2, 3, 2, unit * min(height, size), unit * min(width, size))}
        assert_close(grid.join(tiles), x, 1e-6)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_tile_that_covers_everything_changes_nothing(vae, chunked):
    tile = Tiling(size=48, overlap=16)
    z = latents(vae, 5, 6, 4)
    x = vae.decode(z)
    np.testing.assert_array_equal(vae.decode(z, chunked, tile=tile).asnumpy(), vae.decode(z, chunked).asnumpy())
    whole = vae.encode(x, chunked)
    tiled = vae.encode(x, chunked, tile)
    np.testing.assert_array_equal(tiled.mean.asnumpy(), whole.mean.asnumpy())
    np.testing.assert_array_equal(tiled.logvar.asnumpy(), whole.logvar.asnumpy())


def test_tiles_in_chunks_equal_tiles_of_whole_clips(vae):
    """Chunks are exact, so tiling costs the same with and without them; pixels of only one tile equal that tile's."""
    tile, z = Tiling(size=24, overlap=8), latents(vae, 6, 3, 5)
    whole = vae.decode(z, tile=tile).asnumpy()
    assert_close(vae.decode(z, chunked=True, tile=tile), whole, 1e-5)
    assert whole.shape == (1, 3, 21, 24, 40)
    left = vae.decode(z[..., :3]).asnumpy()
    np.testing.assert_array_equal(whole[..., :16], left[..., :16])
    assert np.abs(whole[..., 16:24] - left[..., 16:24]).max() > 1e-3  # the tiles are blended there
    x = Tensor(whole)
    moments = vae.encode_moments(x, tile=tile)
    assert moments.shape == (1, 2 * vae.config.latent_dim, 6, 3, 5)
    assert_close(vae.encode_moments(x, True, tile), moments.asnumpy(), 1e-5)


def test_frames_beyond_upstreams_limits_keep_their_size(vae):
    """Upstream crops encoded latents to 56 columns and decodes more than 64 of them to pictures that are too wide."""
    tile = Tiling(size=512, overlap=64)
    z = latents(vae, 1, 1, 72)
    x = vae.decode(z, tile=tile)
    assert x.shape == (1, 3, 1, 8, 576)
    assert vae.encode(x, tile=tile).mode().shape == z.shape


@pytest.mark.parametrize("size, overlap", [(8, 0), (64, 16), (72, 16), (256, 64)])
def test_neighbours_share_a_quarter_by_default(size, overlap):
    assert Tiling(size) == Tiling(size, overlap)


@pytest.mark.parametrize(
    "size, overlap, message",
    [
        (250, 64, "tile size = 250.*multiple of 8, from 8 to 4096; nearest legal: 248 or 256"),
        (0, 0, "tile size = 0.*nearest legal: 8"),
        (64.0, 8, "tile size = 64.0"),
        (64, 64, "tile overlap = 64.*to 56; nearest legal: 56"),
        (64, -8, "tile overlap = -8.*nearest legal: 8"),
        (64, 12, "tile overlap = 12.*nearest legal: 8 or 16"),
        (64, True, "tile overlap = True"),
    ],
)
def test_illegal_tiles_are_refused(size, overlap, message):
    with pytest.raises(InputError, match=message):
        Tiling(size, overlap)
