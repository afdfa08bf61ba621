"""Shift, scale and gate of a token stream from a conditioning vector (Peebles & Xie 2022, adaLN).

The modulation and its use (`mindsora.kernels.ada_norm_modulate`) are float32 for every dtype of the stream, as upstream.
"""

import mindspore as ms
from mindspore import Tensor

from mindsora.nn.layers import Linear

STD = 0.02  # Megatron's default; upstream initialises its tensor-parallel linears with it


class Modulation(Linear):
    """Linear layer on the float32 conditioning vector, in float32 for every dtype of the weights. -> (B, 1, out)."""

    def __init__(self, cond_dim: int, out: int):
        super().__init__(cond_dim, out, std=STD)

    def construct(self, c: Tensor) -> Tensor:
        y = self.product(c, self.weight.astype(ms.float32)) + self.bias.astype(ms.float32)
        return y.expand_dims(1)
