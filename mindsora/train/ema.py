"""Moving average of the weights, with the warm-up of Open-Sora Plan v1.5 or of constant decay, as of its autoencoders."""

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops

_map = ops.HyperMap()


def ema_decay(decay: float, n: Tensor) -> Tensor:
    """D = min(decay, (1 + n) / (10 + n)) for the n-th update, n from 1."""
    return ops.minimum(Tensor(decay, ms.float32), (1 + n) / (10 + n))


def _average(rate, average, weight):
    return ops.assign(average, average - rate * (average - weight))  # D e + (1 - D) w = e - (1 - D) (e - w)


class Ema(nn.Cell):
    """average <- D average + (1 - D) weight. The average starts as a copy of the weights before their first update."""

    def __init__(self, weights: ParameterTuple, decay: float, warmup: bool = True):
        super().__init__()
        self.decay = decay
        self.warmup = warmup
        self.weights = weights
        self.averages = weights.clone("ema")

    def construct(self, n: Tensor, skip: Tensor):
        """n () float32: the optimizer's number of this update, from 1. skip () bool: change nothing."""
        rate = 1 - (ema_decay(self.decay, n) if self.warmup else Tensor(self.decay, ms.float32))
        rate = ops.select(skip, ops.zeros_like(rate), rate)
        return _map(ops.partial(_average, rate), self.averages, self.weights)
