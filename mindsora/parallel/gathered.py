"""A linear layer's product with a weight of which every rank holds a part (ZeRO stage 3)."""

from math import prod

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindsora.parallel.collectives import AllGather, Group, ReduceScatter


class GatheredMatMul(nn.Cell):
    """y = x W^T, with W gathered for the product alone, in the forward and again in the backward pass.

    Args:
        shape: (out, in) of W. A rank's part has ceil(out * in / size) values, with zeros behind the last.
    """

    def __init__(self, group: Group, shape: tuple[int, int]):
        super().__init__()
        self.shape, self.count = shape, prod(shape)
        self.missing = -self.count % group.size
        self.gather, self.scatter = AllGather(group, 0), ReduceScatter(group, 0)
        # Operators, not functions: see `mindsora.parallel.collectives`.
        self.forward_product, self.product = ops.MatMul(transpose_b=True), ops.MatMul()
        self.weight_product = ops.MatMul(transpose_a=True)
        self.reshape, self.cast, self.concat = ops.Reshape(), ops.Cast(), ops.Concat(0)
        self.slice, self.zeros = ops.Slice(), ops.Zeros()

    def whole(self, part: Tensor) -> Tensor:
        return self.reshape(self.slice(self.gather(part), (0,), (self.count,)), self.shape)

    def construct(self, x: Tensor, part: Tensor) -> Tensor:
        """x: (N, in); part: this rank's of W -> (N, out)."""
        return self.forward_product(x, self.whole(part))

    def bprop(self, x: Tensor, part: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the part is the sum over the ranks, float32 until it is summed."""
        weight = self.weight_product(gradient, x)
        flat = self.cast(self.reshape(weight, (-1,)), ms.float32)
        if self.missing:
            flat = self.concat((flat, self.zeros((self.missing,), ms.float32)))
        return self.product(gradient, self.whole(part)), self.cast(self.scatter(flat), part.dtype)
