"""Shift, scale and gate of a token stream from a conditioning vector (Peebles & Xie 2022, adaLN).

The modulation and its use (`mindsora.kernels.ada_norm_modulate`) are float32 for every dtype of the stream, as upstream.
"""

import mindspore as ms
from mindspore import Tensor

from mindsora.nn.layers import Linear
from mindsora.parallel.shards import TensorParallel, ranks_of

STD = 0.02  # Megatron's default; upstream initialises its tensor-parallel linears with it


class Modulation(Linear):
    """Linear layer on the float32 conditioning vector, in float32 for every dtype of the weights. -> (B, 1, out).

    Args:
        cond_dim: channels of the vector.
        out: channels of the result.
        tp: tensor-parallel ranks that each compute a part of `out`; the caller passes the vector through `tp.copy`.
    """

    def __init__(self, cond_dim: int, out: int, tp: TensorParallel | None = None):
        super().__init__(cond_dim, out // ranks_of(tp), std=STD)
        self.gather = None if tp is None else tp.gather

    def construct(self, c: Tensor) -> Tensor:
        y = self.product(c, self.weight.astype(ms.float32)) + self.bias.astype(ms.float32)
        if self.gather is not None:
            y = self.gather(y)
        return y.expand_dims(1)
