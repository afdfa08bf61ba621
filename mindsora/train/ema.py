"""Moving average of the weights, on the schedules of Open-Sora Plan v1.5, of v1.3, and of its autoencoder."""

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops

_map = ops.HyperMap()


def decay_v1_5(decay: float, n: Tensor) -> Tensor:
    """D = min(decay, (1 + n) / (10 + n)) for the n-th update, n from 1."""
    return ops.minimum(Tensor(decay, ms.float32), (1 + n) / (10 + n))


def decay_v1_3(decay: float, n: Tensor, start: int = 0, power: float | None = None, least: float = 0.0) -> Tensor:
    """D of the n-th update, n from 1: 0 for the first start + 1 updates, then as in v1.5, one update later.

    Args:
        power: D = 1 - (1 + n)^-power instead, the other warm-up of v1.3's code.
        least: lower bound, after the updates with 0.
    """
    n = n - start - 1
    warmed = (1 + n) / (10 + n) if power is None else 1 - ops.pow(1 + ops.maximum(n, 0.0), -power)
    bounded = ops.clamp(warmed, least, decay)
    return ops.select(n <= 0, ops.zeros_like(bounded), bounded)


def decay_constant(decay: float, n: Tensor) -> Tensor:
    """D = decay: the autoencoder's."""
    return Tensor(decay, ms.float32) * ops.ones_like(n)


SCHEDULES = {"v1_5": decay_v1_5, "v1_3": decay_v1_3, "constant": decay_constant}


def _average(rate, average, weight):
    return ops.assign(average, average - rate * (average - weight))  # D e + (1 - D) w = e - (1 - D) (e - w)


class Ema(nn.Cell):
    """average <- D average + (1 - D) weight. The average starts as a copy of the weights before their first update.

    Args:
        decay: the largest D.
        schedule: a key of SCHEDULES.
    """

    def __init__(self, weights: ParameterTuple, decay: float, schedule: str = "v1_5"):
        super().__init__()
        self.decay, self.schedule = decay, SCHEDULES[schedule]
        self.weights = weights
        self.averages = weights.clone("ema")

    def construct(self, n: Tensor, skip: Tensor):
        """n () float32: the optimizer's number of this update, from 1. skip () bool: change nothing."""
        rate = 1 - self.schedule(self.decay, n)
        rate = ops.select(skip, ops.zeros_like(rate), rate)
        return _map(ops.partial(_average, rate), self.averages, self.weights)
