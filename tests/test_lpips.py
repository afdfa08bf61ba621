"""LPIPS against numbers of the `lpips` package on random VGG16 and AlexNet, and the checks of the backbone files."""

import mindspore as ms
import numpy as np
import pytest
from golden_file import Golden
from lpips_golden import SIZES, clips, random_alexnet, random_vgg16
from mindspore import Tensor
from safetensors.numpy import save_file

from mindsora.errors import InputError
from mindsora.files import file_sha256
from mindsora.media import lpips, lpips_alex


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
