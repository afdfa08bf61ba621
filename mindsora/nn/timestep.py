"""Embedding of the diffusion time: sinusoids, then two linear layers (Ho et al. 2020, DDPM)."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.nn.layers import Linear


class Sinusoid(nn.Cell):
    """timestep (B,) -> (B, dim) float32: cosines of time * 10000^(-k / (dim / 2)), then the sines."""

    def __init__(self, dim: int):
        super().__init__()
        frequencies = np.exp(-math.log(10000) * np.arange(dim // 2, dtype=np.float32) / (dim // 2))
        self.frequencies = Tensor(frequencies.astype(np.float32))

    def construct(self, timestep: Tensor) -> Tensor:
        angle = timestep.astype(ms.float32).reshape(-1, 1) * self.frequencies  # float32: times go up to 1000
        return ops.concat((ops.cos(angle), ops.sin(angle)), -1)


class MLP(nn.Cell):
    """Linear, SiLU (in float32), Linear."""

    def __init__(self, in_features: int, dim: int):
        super().__init__()
        self.linear_1 = Linear(in_features, dim)
        self.linear_2 = Linear(dim, dim)

    def construct(self, x: Tensor) -> Tensor:
        x = self.linear_1(x)
        return self.linear_2(ops.silu(x.astype(ms.float32)).astype(x.dtype))
