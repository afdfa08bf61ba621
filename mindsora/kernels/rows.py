"""Row arithmetic with hand-written gradients, in the forms that MindSpore's CPU kernels run fast.

Measured on CPU (2.10): a mean over the last axis of a 2-D array is 50 times faster than of a 3-D array, multiplication
by a repeated operand is 5 times faster than broadcasting inside the multiplication, and autodiff's gradients of mean,
division and broadcasting cost several times the forward pass. Ascend kernels broadcast by themselves, so on Ascend
nothing is repeated.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import MeanExt


def on_ascend() -> bool:
    return ms.get_context("device_target") == "Ascend"


@ops.constexpr
def _repeats() -> bool:
    return not on_ascend()


def repeated(parameter: Tensor, x: Tensor) -> Tensor:
    """Shape a parameter (C,) for addition to or multiplication with x (..., C): x's shape on CPU, (C,) on Ascend.

    In a graph for Ascend a repeated parameter depends on no input, so the scheduler computes all of them at the start
    and keeps each (0.4 to 0.9 GB in v1.5) until its use.
    """
    return parameter.broadcast_to(x.shape) if _repeats() else parameter


class NormaliseRows(nn.Cell):
    """Divide each row by its root mean square, after subtracting its mean if `centre`.

    x: (M, C) float32 -> normalised (M, C), and the factor 1 / sqrt(mean square + eps) (M, 1).
    """

    def __init__(self, eps: float, centre: bool):
        super().__init__()
        self.eps = eps
        self.centre = centre
        self.repeat = not on_ascend()
        # Primitives, because graph mode cannot compile the functional mean inside a bprop; on Ascend the one that has an
        # aclnn kernel (see mindsora.kernels.forms).
        self.reduce = ops.ReduceMean(keep_dims=True) if self.repeat else MeanExt()
        self.tile = ops.Tile()

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.centre:
            x = x - self.wide(self._mean(x), x)
        factor = 1 / ops.sqrt(self._mean(x * x) + self.eps)  # ops.rsqrt is 15 times slower on CPU
        return x * self.wide(factor, x), factor

    def bprop(self, x, out, dout):
        y, factor = out
        g = dout[0]
        dx = g - y * self.wide(self._mean(g * y), x)
        if self.centre:
            dx = dx - self.wide(self._mean(g), x)
        return (dx * self.wide(factor, x),)

    def _mean(self, x):
        return self.reduce(x, -1) if self.repeat else self.reduce(x, (-1,), True, None)

    def wide(self, column, x):
        return self.tile(column, (1, x.shape[1])) if self.repeat else column


class PerToken(nn.Cell):
    """Repeat a row that all tokens of a sample share: (B, 1, C) -> (B, S, C)."""

    def __init__(self):
        super().__init__()
        self.repeat = not on_ascend()
        self.matmul = ops.BatchMatMul()
        self.ones = ops.Ones()

    def construct(self, row: Tensor, tokens: int) -> Tensor:
        return row.broadcast_to((row.shape[0], tokens, row.shape[2])) if self.repeat else row

    def bprop(self, row, tokens, out, dout):
        if self.repeat:  # the sum over tokens as a product with ones, 10 times quicker on CPU than a 3-D sum
            dout = self.matmul(self.ones((row.shape[0], 1, tokens), dout.dtype), dout)
        return dout, 0
