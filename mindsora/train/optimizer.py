"""AdamW and the whole training step as one graph."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindsora.train.clip import AdaptiveClip
from mindsora.train.ema import Ema
from mindsora.train.recipe import OptimizerConfig

_map = ops.HyperMap()
_fused_adam = ops.AdamWeightDecay()  # one pass over weight, moments and gradient; knows no bias correction
_half_sum_of_squares = ops.L2Loss()

METRICS = ("loss", "grad_norm", "threshold", "factor", "extreme")  # what a step returns before the loss's own parts


def _update(factor, lr, beta1, beta2, eps, decay, weight, moment1, moment2, gradient):
    return _fused_adam(weight, moment1, moment2, lr, beta1, beta2, eps, decay, gradient * factor)


class AdamW(nn.Cell):
    """w -= lr (m^ / (sqrt(v^) + eps) + decay w), m^ and v^ the bias-corrected moments; all in float32 and in place."""

    def __init__(self, weights: ParameterTuple, betas: tuple[float, float], eps: float, decay: float):
        super().__init__()
        self.beta1, self.beta2 = Tensor(betas[0], ms.float32), Tensor(betas[1], ms.float32)
        self.eps, self.decay = eps, decay
        self.weights = weights
        self.moment1 = weights.clone("moment1", init="zeros")
        self.moment2 = weights.clone("moment2", init="zeros")
        self.updates = Parameter(Tensor(0.0, ms.float32), name="updates", requires_grad=False)

    def construct(self, lr: Tensor, factor: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
        """One update with `factor` times the gradients. Returns how many there have been, () float32."""
        n = self.updates + 1
        ops.assign(self.updates, n)
        # The fused operator computes w -= lr (m / (sqrt(v) + eps) + decay w): the bias corrections go into its scalars.
        c1, c2 = 1 - ops.pow(self.beta1, n), ops.sqrt(1 - ops.pow(self.beta2, n))
        update = ops.partial(_update, factor, lr * c2 / c1, self.beta1, self.beta2, self.eps * c2, self.decay * c1 / c2)
        _map(update, self.weights, self.moment1, self.moment2, gradients)
        return n


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """L2 norm over all gradients together."""
    return ops.sqrt(2 * ops.stack(_map(_half_sum_of_squares, gradients)).sum())


class TrainStep(nn.Cell):
    """Forward, backward, clipping, AdamW and moving average. Wrapped in `ms.jit` it is one graph.

    Args:
        loss: Cell that maps a batch to (loss (), the parts to be logged (N,)).
        config: the recipe's optimizer section.
    """

    def __init__(self, loss: nn.Cell, config: OptimizerConfig):
        super().__init__(auto_prefix=False)  # the weights keep the names they have in `loss`
        weights = ParameterTuple(loss.trainable_params())
        self.value_and_grad = ms.value_and_grad(loss, None, weights=weights, has_aux=True)
        self.clip = AdaptiveClip(config.clip_decay)
        self.adamw = AdamW(weights, tuple(config.betas), config.eps, config.weight_decay)
        self.ema = Ema(weights, config.ema)

    def construct(self, lr: Tensor, *batch: Tensor) -> Tensor:
        """lr () float32 -> (5 + N,) float32: loss, gradient norm, threshold, factor, extreme, the loss's own parts."""
        (loss, parts), gradients = self.value_and_grad(*batch)
        norm = global_norm(gradients)
        factor, threshold, extreme = self.clip(norm)
        if not extreme:  # a branch inside the graph: NaN times 0 would still be NaN
            self.ema(self.adamw(lr, factor, gradients))
        return ops.concat((ops.stack((loss, norm, threshold, factor, extreme.astype(ms.float32))), parts))
