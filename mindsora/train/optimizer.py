"""AdamW and the whole training step as one graph."""

from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindsora.train.checkpoint import TRANSIENT
from mindsora.train.clip import clip_of
from mindsora.train.ema import Ema
from mindsora.train.memory import LossScale, ScaledLoss
from mindsora.train.recipe import OptimizerConfig

_map = ops.HyperMap()
_fused_adam = ops.AdamWeightDecay()  # one pass over weight, moments and gradient; without bias correction

METRICS = ("loss", "grad_norm", "threshold", "factor", "extreme", "skipped")  # of a step, then the parts of the loss


def _update(skip, factor, lr, beta1, beta2, eps, decay, weight, moment1, moment2, gradient):
    gradient = gradient.astype(ms.float32)
    gradient = ops.select(skip, ops.zeros_like(gradient), gradient) * factor  # NaN times 0 would still be NaN
    return _fused_adam(weight, moment1, moment2, lr, beta1, beta2, eps, decay, gradient)


def _copy(weight, master):
    return ops.assign(weight, master.astype(weight.dtype))


class AdamW(nn.Cell):
    """w -= lr (m^ / (sqrt(v^) + eps) + decay w) with bias-corrected moments m^ and v^, in float32 and in place.

    Attributes:
        weights: the parameters that the model computes with.
        masters: the parameters that are updated: float32 weights themselves, float32 copies of half-precision weights.
    """

    def __init__(self, weights: ParameterTuple, betas: tuple[float, float], eps: float, decay: float):
        super().__init__()
        self.beta1, self.beta2 = Tensor(betas[0], ms.float32), Tensor(betas[1], ms.float32)
        self.eps, self.decay = eps, decay
        self.weights = weights
        self.masters = ParameterTuple([w if w.dtype == ms.float32 else _float32(w) for w in weights])
        half = [(w, m) for w, m in zip(weights, self.masters) if w.dtype != ms.float32]
        self.half = (ParameterTuple([w for w, _ in half]), ParameterTuple([m for _, m in half])) if half else None
        self.moment1 = zeros_like("moment1", weights)
        self.moment2 = zeros_like("moment2", weights)
        self.updates = Parameter(Tensor(0.0, ms.float32), name="updates", requires_grad=False)

    def construct(self, lr: Tensor, factor: Tensor, skip: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
        """Update with `factor` times the gradients. If `skip`, () bool, is True, every parameter keeps its bits.

        Returns the number of this update, from 1, () float32.
        """
        n = self.updates + 1
        # The fused operator computes m += (1 - beta1) (g - m), v += (1 - beta2) (g^2 - v) and
        # w -= lr (m / (sqrt(v) + eps) + decay w), so the bias corrections go into its scalars. A skipped update sets
        # gradients and rate to 0 and betas to 1, which adds zeros; a branch on `skip` would synchronise the device.
        c1, c2 = 1 - ops.pow(self.beta1, n), ops.sqrt(1 - ops.pow(self.beta2, n))
        one = ops.ones_like(lr)
        rate = ops.select(skip, ops.zeros_like(lr), lr * c2 / c1)
        beta1, beta2 = ops.select(skip, one, self.beta1), ops.select(skip, one, self.beta2)
        update = ops.partial(_update, skip, factor, rate, beta1, beta2, self.eps * c2, self.decay * c1 / c2)
        _map(update, self.masters, self.moment1, self.moment2, gradients)
        if self.half is not None:
            _map(_copy, *self.half)
        ops.assign_add(self.updates, 1 - skip.astype(ms.float32))
        return n


def _float32(weight: Parameter) -> Parameter:
    return Parameter(weight.astype(ms.float32), name=f"master.{weight.name}", requires_grad=False)


def zeros_like(prefix: str, weights: ParameterTuple) -> ParameterTuple:
    """A float32 zero for every weight."""
    return ParameterTuple(
        [Parameter(ops.zeros(w.shape, ms.float32), name=f"{prefix}.{w.name}", requires_grad=False) for w in weights]
    )


def _sum_of_squares(gradient):
    gradient = gradient.astype(ms.float32)  # float16 overflows at 65504, and L2Loss has no bfloat16 kernel on Ascend
    return (gradient * gradient).sum().reshape(1)


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """L2 norm over all gradients together, summed in float32."""
    return ops.sqrt(ops.concat(_map(_sum_of_squares, gradients)).sum())


class TrainStep(nn.Cell):
    """Forward, backward, clipping, AdamW and moving average; under `ms.jit` one graph without branches.

    Args:
        loss: Cell that maps a batch to (loss () float32, logged parts (N,)).
        config: the recipe's optimizer section.
        parts: names of the loss's parts.
    """

    def __init__(self, loss: nn.Cell, config: OptimizerConfig, parts: tuple[str, ...] = ()):
        super().__init__(auto_prefix=False)  # the weights keep their names in `loss`
        weights = ParameterTuple(loss.trainable_params())
        self.loss = loss
        self.metrics = METRICS + parts
        self.accumulate = config.accumulate
        self.loss_scale = LossScale() if any(w.dtype == ms.float16 for w in weights) else None
        scaled = loss if self.loss_scale is None else ScaledLoss(loss, self.loss_scale.scale)
        self.value_and_grad = ms.value_and_grad(scaled, None, weights=weights, has_aux=True)
        self.sums = zeros_like(f"{TRANSIENT}sum", weights) if self.accumulate > 1 else None
        self.clip = clip_of(config)
        self.adamw = AdamW(weights, tuple(config.betas), config.eps, config.weight_decay)
        self.ema = Ema(self.adamw.masters, config.ema, config.ema_schedule)

    def construct(self, lr: Tensor, *batch: Tensor) -> Tensor:
        """The last batch of a step, and the update. lr () float32 -> METRICS and the loss's own parts (6 + N,)."""
        loss, parts, gradients = self.gradients(*batch)
        if self.sums is not None:
            _map(ops.assign_add, self.sums, gradients)
            gradients = self.sums
        return self.update(lr, loss, parts, gradients)

    def collect(self, *batch: Tensor) -> Tensor:
        """Add the gradients of a batch to those of the step, in float32. Returns the batch's loss ()."""
        loss, _, gradients = self.gradients(*batch)
        _map(ops.assign_add, self.sums, gradients)
        return loss

    def gradients(self, *batch: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """A batch -> (loss (), parts (N,), gradients), the gradients times the loss scale."""
        if self.loss_scale is None:
            (loss, parts), gradients = self.value_and_grad(*batch)
        else:
            (_, (loss, parts)), gradients = self.value_and_grad(*batch)
        if self.sums is not None:
            gradients = _map(_as_float32, gradients)
        return loss, parts, gradients

    def update(self, lr: Tensor, loss: Tensor, parts: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
        """Clip by the norm of the mean gradient, update, average; several ranks reduce their gradients before."""
        mean = ops.ones_like(lr) / self.accumulate
        if self.loss_scale is not None:
            mean = mean / self.loss_scale.scale
        norm = global_norm(gradients) * mean
        factor, threshold, extreme = self.clip(norm)
        n = self.adamw(lr, factor * mean, extreme, gradients)
        self.ema(n, extreme)
        if self.loss_scale is not None:
            self.loss_scale(norm)
        if self.sums is not None:
            _map(_clear, self.sums)
        skipped = self.clip.skipped.astype(ms.float32)
        row = ops.stack((loss, norm, threshold, factor, extreme.astype(ms.float32), skipped))
        return ops.concat((row, parts))

    def compiled(self) -> Callable[[int, Tensor, Sequence[tuple[Tensor, ...]]], Tensor]:
        """The update as `mindsora.train.loop.Step` describes it. Its loss and parts are those of the last batch."""
        run = ms.jit(self)
        collect = ms.jit(self.collect) if self.sums is not None else None

        def update(number: int, lr: Tensor, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
            for batch in batches[:-1]:
                collect(*batch)
            return run(lr, *batches[-1])

        return update

    def averages(self) -> dict[str, np.ndarray]:
        """The moving average of every weight, by the weight's name in the loss Cell."""
        return {w.name: average.asnumpy() for w, average in zip(self.adamw.weights, self.ema.averages)}


def _as_float32(gradient):
    return gradient.astype(ms.float32)


def _clear(total):
    return ops.assign(total, ops.zeros_like(total))
