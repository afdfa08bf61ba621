"""LPIPS with AlexNet against numbers of the `lpips` package on one random net, and the checks of the backbone file."""

import numpy as np
import pytest
from golden_file import Golden
from lpips_golden import SIZES, clips, random_alexnet
from safetensors.numpy import save_file

from mindsora.errors import InputError
from mindsora.files import file_sha256
from mindsora.media import lpips_alex


@pytest.fixture(scope="module")
def alex(tmp_path_factory):
    path = tmp_path_factory.mktemp("alex") / "alexnet.safetensors"
    save_file(random_alexnet(), path)
    return lpips_alex.load_alex(path, file_sha256(path)[:8])


@pytest.mark.parametrize("height, width", SIZES)
def test_alexnet_equals_the_package(alex, height, width):
    x, y = ((clip[0] + 1) / 2 for clip in clips(height, width))
    # five layers of float32
    np.testing.assert_allclose(
        alex.distances(x, y), Golden("lpips_alex").outputs[f"distance_{height}x{width}"], rtol=1e-4
    )


def test_alexnet_sees_blur_and_not_equal_frames(alex):
    clip = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    assert alex.distances(clip, clip) == [0]
    weak, strong = (
        alex.distances(clip, (clip * share + 128 * (1 - share)).astype(np.uint8))[0] for share in (0.8, 0.3)
    )
    assert 0 < weak < strong


def test_bad_alexnets_and_clips(alex, tmp_path):
    (tmp_path / lpips_alex.BACKBONE).write_bytes(b"an error page of a download")
    with pytest.raises(InputError, match="has the sha256 .* not 7be5be79.* download it again"):
        lpips_alex.load_alex(tmp_path / lpips_alex.BACKBONE)
    with pytest.raises(InputError, match="does not exist; download torchvision's alexnet-owt-7be5be79.pth"):
        lpips_alex.load_alex(tmp_path / "absent.pth")
    save_file({"features.0.weight": np.zeros((64, 3, 11, 11), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="has no tensor 'features.0.bias'"):
        lpips_alex.load_alex(tmp_path / "a.safetensors", "")
    save_file(random_alexnet() | {"features.3.weight": np.zeros((2, 2), np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"has the shape \(2, 2\), not \(192, 64, 5, 5\)"):
        lpips_alex.load_alex(tmp_path / "b.safetensors", "")
    with pytest.raises(InputError, match="at least 32 x 32 pixels, not 16 x 40"):
        alex.distances(np.zeros((1, 16, 40, 3), np.uint8), np.zeros((1, 16, 40, 3), np.uint8))
    with pytest.raises(InputError, match="of one shape are compared"):
        alex.distances(np.zeros((1, 40, 40, 3), np.uint8), np.zeros((2, 40, 40, 3), np.uint8))
