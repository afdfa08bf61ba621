"""LPIPS against numbers of the `lpips` package on one random VGG16, and the checks of the backbone file."""

import mindspore as ms
import numpy as np
import pytest
from golden_file import Golden
from lpips_golden import SIZES, clips, random_vgg16
from mindspore import Tensor
from safetensors.numpy import save_file

from mindsora.errors import InputError
from mindsora.files import file_sha256
from mindsora.media import lpips


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(random_vgg16(), path)
    return lpips.load_lpips(path, file_sha256(path))


@pytest.mark.full
@pytest.mark.parametrize("height, width", SIZES)
def test_values_and_gradients_equal_the_packages(ours, height, width):
    golden = Golden("lpips_vgg").outputs
    x, y = map(Tensor, clips(height, width))
    values, gradient = ms.value_and_grad(lambda y: ours(x, y).sum())(y)
    # 13 layers of float32, and a sum over the frames
    np.testing.assert_allclose(values.asnumpy(), golden[f"distance_{height}x{width}"].sum(), rtol=1e-4)
    np.testing.assert_allclose(ours(x, y).asnumpy()[0], golden[f"distance_{height}x{width}"], rtol=1e-4)
    expected = golden[f"gradient_{height}x{width}"]
    np.testing.assert_allclose(gradient.asnumpy()[0], expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.full
def test_equal_pictures_have_no_distance_and_a_finite_gradient(ours):
    black = Tensor(np.full((1, 1, 32, 32, 3), -1, np.float32))
    assert ours(black, black).asnumpy() == 0
    assert np.isfinite(ms.grad(lambda y: ours(black, y).sum())(black).asnumpy()).all()
    assert not ours.trainable_params()


def test_a_backbone_of_another_checksum_is_refused(tmp_path):
    path = tmp_path / lpips.BACKBONE
    path.write_bytes(b"an error page of a download")
    with pytest.raises(InputError, match="has the sha256 .* not 397923af8e79.* download it again"):
        lpips.load_lpips(path)
    with pytest.raises(InputError, match="absent.pth' does not exist; download torchvision's vgg16-397923af.pth"):
        lpips.load_lpips(tmp_path / "absent.pth")


@pytest.mark.full
@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"classifier.0.weight": np.zeros((2, 2), np.float32)}, "has no tensor 'features.0.weight'"),
        (
            {"features.0.weight": np.zeros((64, 1, 3, 3), np.float32)},
            r"has the shape \(64, 1, 3, 3\), not \(64, 3, 3, 3\)",
        ),
    ],
)
def test_a_file_that_is_no_vgg16_is_refused(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "vgg.safetensors")
    with pytest.raises(InputError, match=message):
        lpips.load_lpips(tmp_path / "vgg.safetensors", file_sha256(tmp_path / "vgg.safetensors"))
