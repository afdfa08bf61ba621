"""Adaptive normalisation and gates: how a conditioning vector steers a token stream (Peebles & Xie 2022, adaLN).

All of it runs in float32 whatever the stream's dtype is, as upstream does.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindsora.nn.layers import Linear
from mindsora.nn.rows import PerToken

STD = 0.02  # Megatron's default, which upstream's tensor-parallel linears are born with


class Modulation(Linear):
    """Linear of the float32 conditioning vector: weights are widened, the product stays float32. -> (B, 1, out)."""

    def __init__(self, cond_dim: int, out: int):
        super().__init__(cond_dim, out, std=STD)

    def construct(self, c: Tensor) -> Tensor:
        y = ops.MatMul(transpose_b=True)(c, self.weight.astype(ms.float32)) + self.bias.astype(ms.float32)
        return y.expand_dims(1)


class Modulate(nn.Cell):
    """x * (1 + scale) + shift in float32. x: (B, S, C); shift, scale: (B, 1, C)."""

    def __init__(self):
        super().__init__()
        self.per_token = PerToken()

    def construct(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        scale, shift = self.per_token(1 + scale, x.shape[1]), self.per_token(shift, x.shape[1])
        return (x.astype(ms.float32) * scale + shift).astype(x.dtype)


class AddGated(nn.Cell):
    """x + gate * update in float32. x, update: (B, S, C); gate: (B, 1, C)."""

    def __init__(self):
        super().__init__()
        self.per_token = PerToken()

    def construct(self, x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
        gate = self.per_token(gate, x.shape[1])
        return (x.astype(ms.float32) + gate * update.astype(ms.float32)).astype(x.dtype)
