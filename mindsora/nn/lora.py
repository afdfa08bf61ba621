"""Low-rank adaptation of a linear layer (Hu et al. 2021, arXiv 2106.09685)."""

import math

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer

from mindsora.nn.layers import Linear

_transposed_matmul = ops.MatMul(transpose_b=True)


class LoRALinear(nn.Cell):
    """y = x W^T + b + (alpha / rank) x A^T B^T, with W and b frozen. It starts as the layer that it adapts: B is zero.

    A and B are float32 for every dtype of x, so that small updates are not lost.

    Args:
        base: the layer; it keeps its parameters and their names.
        rank: rows of A, columns of B.
        alpha: scale of the update at rank 1.
    """

    def __init__(self, base: Linear, rank: int, alpha: float):
        super().__init__(auto_prefix=False)
        path = base.weight.name.removesuffix("weight")
        for parameter in base.get_parameters():
            parameter.requires_grad = False
        self.base, self.scale = base, alpha / rank
        bound = Uniform(1 / math.sqrt(base.in_features))  # PEFT's initialisation
        self.lora_A = Parameter(initializer(bound, (rank, base.in_features)), name=f"{path}lora_A")
        self.lora_B = Parameter(initializer("zeros", (base.out_features, rank)), name=f"{path}lora_B")

    def construct(self, x: Tensor) -> Tensor:
        y = self.base(x)
        rows = x.reshape(-1, self.base.in_features)
        low = _transposed_matmul(rows, self.lora_A.astype(x.dtype))  # (rows, rank)
        return y + self.scale * _transposed_matmul(low, self.lora_B.astype(x.dtype)).reshape(y.shape)
