"""Layers every model shares, under the parameter names PyTorch checkpoints use (`weight`, `bias`)."""

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Uniform, initializer

from mindsora.nn.rows import NormaliseRows

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

    def construct(self, x: Tensor) -> Tensor:
        # Flattened to rows: MatMul on 2-D operands is the form both CPU and Ascend run at full speed.
        y = _transposed_matmul(x.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            y = y + self.bias.broadcast_to(y.shape)  # as quick as the CPU gets: see mindsora.nn.rows
        return y.reshape(x.shape[:-1] + (self.out_features,))


class Embedding(nn.Cell):
    """Rows of a table. ids: (...) int32 -> (..., dim)."""

    def __init__(self, rows: int, dim: int, std: float = 1.0):
        super().__init__()
        self.weight = Parameter(initializer(Normal(std), (rows, dim)))

    def construct(self, ids: Tensor) -> Tensor:
        return ops.gather(self.weight, ids, 0)


class LayerNorm(nn.Cell):
    """Normalise the last axis in float32, scale and shift, return in x's dtype."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (dim,)))
        self.bias = Parameter(initializer("zeros", (dim,)))
        self.normalise = NormaliseRows(eps, centre=True)

    def construct(self, x: Tensor) -> Tensor:
        h = x.reshape(-1, x.shape[-1]).astype(ms.float32)  # upstream: float32 up to the result in every dtype
        h, _ = self.normalise(h)
        h = h * self.weight.astype(ms.float32).broadcast_to(h.shape)
        h = h + self.bias.astype(ms.float32).broadcast_to(h.shape)
        return h.astype(x.dtype).reshape(x.shape)


class RMSNorm(nn.Cell):
    """Divide by the root mean square of the last axis (float32), return to the weight's dtype, then scale."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (dim,)))
        self.normalise = NormaliseRows(eps, centre=False)

    def construct(self, x: Tensor) -> Tensor:
        h = x.reshape(-1, x.shape[-1]).astype(ms.float32)  # the mean of squares overflows float16
        h, _ = self.normalise(h)
        return (h.astype(self.weight.dtype) * self.weight.broadcast_to(h.shape)).reshape(x.shape)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form, computed in float32. (The fused CPU operator is six times slower than this.)"""
    h = x.astype(ms.float32)
    # (1 + tanh z) / 2 = sigmoid 2z: the CPU's tanh is off by 1e-4, its sigmoid by 6e-6 of the value.
    return (h * ops.sigmoid(math.sqrt(8 / math.pi) * (h + 0.044715 * h * h * h))).astype(x.dtype)
