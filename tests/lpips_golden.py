"""The golden files of LPIPS: numbers of the package `lpips` on a random VGG16 and on a random AlexNet, and those nets.

    pip install --no-deps lpips==0.1.4 && python tests/lpips_golden.py

The package is not among the tests' requirements, since it needs torchvision, and torchvision another torch. Here its layers
stand in for torchvision's.
"""

import sys
import types
from pathlib import Path

import numpy as np

PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions among torchvision's `vgg16().features`
POOLINGS = (4, 9, 16, 23, 30)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SIZES = ((32, 48), (37, 35))
GOLDEN = Path(__file__).parent / "golden" / "lpips_vgg.safetensors"
ALEX_PLACES = (0, 3, 6, 8, 10)  # of the convolutions among torchvision's `alexnet().features`
ALEX_LAYERS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
ALEX_POOLINGS = (2, 5, 12)
ALEX_GOLDEN = GOLDEN.with_name("lpips_alex.safetensors")


def random_vgg16() -> dict[str, np.ndarray]:
    """Tensors of a VGG16 by torchvision's names: normal weights that keep the features' variance, small biases."""
    rng, tensors, before = np.random.default_rng(0), {}, 3
    for place, width in zip(PLACES, WIDTHS):
        weight = rng.standard_normal((width, before, 3, 3), np.float32) * np.float32((2 / (9 * before)) ** 0.5)
        tensors |= {
            f"features.{place}.weight": weight,
            f"features.{place}.bias": rng.standard_normal(width, np.float32) / 10,
        }
        before = width
    return tensors


def random_alexnet() -> dict[str, np.ndarray]:
    """Tensors of an AlexNet by torchvision's names, drawn as those of `random_vgg16`."""
    rng, tensors = np.random.default_rng(2), {}
    for place, (before, width, kernel, _, _) in zip(ALEX_PLACES, ALEX_LAYERS):
        shape, scale = (width, before, kernel, kernel), np.float32((2 / (kernel**2 * before)) ** 0.5)
        tensors[f"features.{place}.weight"] = rng.standard_normal(shape, np.float32) * scale
        tensors[f"features.{place}.bias"] = rng.standard_normal(width, np.float32) / 10
    return tensors


def clips(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A random clip (1, 2, H, W, 3) in [-1, 1] and the same with noise."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (1, 2, height, width, 3)).astype(np.float32)
    return x, (x + rng.normal(0, 0.3, x.shape)).clip(-1, 1).astype(np.float32)


def vgg_features(tensors: dict[str, np.ndarray]):
    """The layers of torchvision's `vgg16().features` with these weights."""
    import torch

    layers = []
    for place in PLACES:
        if len(layers) in POOLINGS:
            layers.append(torch.nn.MaxPool2d(2))
        layers += [_filled(tensors, place, padding=1), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.MaxPool2d(2))


def alex_features(tensors: dict[str, np.ndarray]):
    """The layers of torchvision's `alexnet().features` with these weights."""
    import torch

    layers = []
    for place, (_, _, _, stride, padding) in zip(ALEX_PLACES, ALEX_LAYERS):
        if len(layers) in ALEX_POOLINGS:
            layers.append(torch.nn.MaxPool2d(3, 2))
        layers += [_filled(tensors, place, stride=stride, padding=padding), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.MaxPool2d(3, 2))


def _filled(tensors: dict[str, np.ndarray], place: int, **options):
    import torch

    weight = torch.tensor(tensors[f"features.{place}.weight"])
    conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], **options)
    conv.weight.data, conv.bias.data = weight, torch.tensor(tensors[f"features.{place}.bias"])
    return conv


def package_metric(net: str, name: str, features):
    """The package's metric with these features and its own linear weights of version 0.1.

    net: "vgg" or "alex"; name: of torchvision's function for it.
    """
    sys.modules["torchvision"] = torchvision = types.ModuleType("torchvision")
    sys.modules["torchvision.models"] = torchvision.models = types.ModuleType("torchvision.models")
    setattr(torchvision.models, name, lambda pretrained: types.SimpleNamespace(features=features))
    import lpips

    lpips.pretrained_networks.tv = torchvision.models
    return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def numbers(metric, gradients: bool) -> dict[str, np.ndarray]:
    """Distances of the clips of every size, and their gradients for the second clip."""
    import torch

    arrays = {}
    for height, width in SIZES:
        x, y = (torch.tensor(clip[0].transpose(0, 3, 1, 2)) for clip in clips(height, width))
        y.requires_grad_()
        values = metric(x, y)
        values.sum().backward()
        arrays[f"outputs/distance_{height}x{width}"] = values.detach().numpy().reshape(-1)
        if gradients:
            arrays[f"outputs/gradient_{height}x{width}"] = y.grad.numpy().transpose(0, 2, 3, 1).copy()
    return arrays


def main():
    from safetensors.numpy import save_file

    vgg = numbers(package_metric("vgg", "vgg16", vgg_features(random_vgg16())), gradients=True)
    alex = numbers(package_metric("alex", "alexnet", alex_features(random_alexnet())), gradients=False)
    for path, net, arrays in ((GOLDEN, "vgg", vgg), (ALEX_GOLDEN, "alex", alex)):
        source = f"lpips 0.1.4, net {net}, version 0.1, random features"
        save_file(arrays, path, metadata={"config": "{}", "source": source})


if __name__ == "__main__":
    main()
