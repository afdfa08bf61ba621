"""The golden file of LPIPS: numbers of the package `lpips` on a random VGG16, and that VGG16.

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


def clips(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A random clip (1, 2, H, W, 3) in [-1, 1] and the same with noise."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (1, 2, height, width, 3)).astype(np.float32)
    return x, (x + rng.normal(0, 0.3, x.shape)).clip(-1, 1).astype(np.float32)


def package_metric(tensors: dict[str, np.ndarray]):
    """The package's metric with these features and its own linear weights of version 0.1."""
    import torch

    layers, before = [], 3
    for place, width in zip(PLACES, WIDTHS):
        if len(layers) in POOLINGS:
            layers.append(torch.nn.MaxPool2d(2))
        conv = torch.nn.Conv2d(before, width, 3, padding=1)
        conv.weight.data = torch.tensor(tensors[f"features.{place}.weight"])
        conv.bias.data = torch.tensor(tensors[f"features.{place}.bias"])
        layers += [conv, torch.nn.ReLU()]
        before = width
    features = torch.nn.Sequential(*layers, torch.nn.MaxPool2d(2))
    sys.modules["torchvision"] = torchvision = types.ModuleType("torchvision")
    sys.modules["torchvision.models"] = torchvision.models = types.ModuleType("torchvision.models")
    torchvision.models.vgg16 = lambda pretrained: types.SimpleNamespace(features=features)
    import lpips

    return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


def main():
    import torch
    from safetensors.numpy import save_file

    metric, arrays = package_metric(random_vgg16()), {}
    for height, width in SIZES:
        x, y = (torch.tensor(clip[0].transpose(0, 3, 1, 2)) for clip in clips(height, width))
        y.requires_grad_()
        values = metric(x, y)
        values.sum().backward()
        arrays[f"outputs/distance_{height}x{width}"] = values.detach().numpy().reshape(-1)
        arrays[f"outputs/gradient_{height}x{width}"] = y.grad.numpy().transpose(0, 2, 3, 1).copy()
    save_file(arrays, GOLDEN, metadata={"config": "{}", "source": "lpips 0.1.4, net vgg, version 0.1, random features"})


if __name__ == "__main__":
    main()
