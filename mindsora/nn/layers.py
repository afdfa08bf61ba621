"""Layers that all models share, with the parameter names of PyTorch checkpoints (`weight`, `bias`)."""

import math

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Uniform, initializer

from mindsora.kernels import forms
from mindsora.kernels.choice import choose
from mindsora.kernels.gelu import gelu_tanh
from mindsora.kernels.row_norm import row_norm
from mindsora.kernels.rows import repeated
from mindsora.parallel.shards import TensorParallel, ranks_of

_transposed_matmul = ops.MatMul(transpose_b=True)  # faster on CPU than transposing the weight first


class Linear(nn.Cell):
    """y = x W^T + b, W stored (out, in).

    Args:
        in_features, out_features: channel counts.
        bias: whether there is a bias.
        std: standard deviation of a normal initialisation; None for PyTorch's default, U(-1/sqrt(in), 1/sqrt(in)).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, std: float | None = None):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        init = Normal(std) if std is not None else Uniform(1 / math.sqrt(in_features))
        self.weight = Parameter(initializer(init, (out_features, in_features)))
        self.bias = Parameter(initializer("zeros", (out_features,))) if bias else None
        self.product = _transposed_matmul  # training with `zero: 3` puts a GatheredMatMul here

    def construct(self, x: Tensor) -> Tensor:
        # CPU and Ascend run MatMul at full speed only on 2-D operands.
        y = self.product(x.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            y = y + repeated(self.bias, y)
        return y.reshape(x.shape[:-1] + (self.out_features,))


class RowLinear(Linear):
    """y = x W^T + b where each tensor-parallel rank has a part of the inputs: y is the same on every rank.

    Args:
        in_features: of this rank.
        tp: the ranks.
    """

    def __init__(self, in_features: int, out_features: int, tp: TensorParallel, bias: bool, std: float | None):
        super().__init__(in_features, out_features, bias, std)
        self.reduce = tp.reduce

    def construct(self, x: Tensor) -> Tensor:
        y = self.reduce(self.product(x.reshape(-1, self.in_features), self.weight))
        if self.bias is not None:  # after the sum: once, not once on every rank
            y = y + repeated(self.bias, y)
        return y.reshape(x.shape[:-1] + (self.out_features,))


def row_linear(
    in_features: int, out_features: int, tp: TensorParallel | None, bias: bool = True, std: float | None = None
) -> Linear:
    """A linear layer whose inputs tensor-parallel ranks share. in_features: of this rank."""
    if tp is None:
        return Linear(in_features, out_features, bias, std)
    return RowLinear(in_features, out_features, tp, bias, std)


class Embedding(nn.Cell):
    """Rows of a table. ids: (...) int32 -> (..., dim)."""

    def __init__(self, rows: int, dim: int, std: float = 1.0):
        super().__init__()
        self.weight = Parameter(initializer(Normal(std), (rows, dim)))

    def construct(self, ids: Tensor) -> Tensor:
        return forms.embedding(self.weight, ids)


class LayerNorm(nn.Cell):
    """Normalise the last axis in float32, scale and shift, return in x's dtype."""

    silu = False

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (dim,)))
        self.bias = Parameter(initializer("zeros", (dim,)))
        choose("row_norm")  # compiles the operator here if needed, not in the middle of the first call

    def construct(self, x: Tensor) -> Tensor:
        return row_norm(x, self.weight, self.bias, norm="layer", eps=self.eps, silu=self.silu)


class NormSiLU(LayerNorm):
    """Layer norm, then SiLU."""

    silu = True


class RMSNorm(nn.Cell):
    """Divide by the root mean square of the last axis (float32), return to the weight's dtype, then scale."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (dim,)))
        choose("row_norm")

    def construct(self, x: Tensor) -> Tensor:
        return row_norm(x, self.weight, norm="rms", eps=self.eps)


class FeedForward(nn.Cell):
    """W2 gelu(W1 x) with a hidden width of four times `dim`, which tensor-parallel ranks share.

    Args:
        bias, std: arguments of both linear layers.
        tp: the ranks, if there are several.
    """

    def __init__(self, dim: int, bias: bool = True, std: float | None = None, tp: TensorParallel | None = None):
        super().__init__()
        hidden = 4 * dim // ranks_of(tp)
        self.copy = None if tp is None else tp.copy
        self.up = Linear(dim, hidden, bias, std)
        self.down = row_linear(hidden, dim, tp, bias, std)
        choose("gelu")  # as row_norm above

    def construct(self, x: Tensor) -> Tensor:
        if self.copy is not None:
            x = self.copy(x)
        return self.down(gelu_tanh(self.up(x)))
