"""How a conditioning vector becomes the numbers that steer a token stream (Peebles & Xie 2022, adaLN).

They, and what is done with them (`mindsora.kernels.ada_norm_modulate`), are float32 whatever the stream's dtype is, as
upstream has it.
"""

import mindspore as ms
from mindspore import Tensor, ops

from mindsora.nn.layers import Linear

STD = 0.02  # Megatron's default, which upstream's tensor-parallel linears are born with


class Modulation(Linear):
    """Linear of the float32 conditioning vector: weights are widened, the product stays float32. -> (B, 1, out)."""

    def __init__(self, cond_dim: int, out: int):
        super().__init__(cond_dim, out, std=STD)

    def construct(self, c: Tensor) -> Tensor:
        y = ops.MatMul(transpose_b=True)(c, self.weight.astype(ms.float32)) + self.bias.astype(ms.float32)
        return y.expand_dims(1)
