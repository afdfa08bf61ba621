"""The training step of several ranks, each with batches of its own: data parallelism and ZeRO.

Rajbhandari et al. 2020 (arXiv 1910.02054): every rank has the weights; stage 1 spreads the optimizer's moments, masters
and averages over the ranks, stage 2 the gradients that are summed over the batches of a step too, stage 3 the weights of
linear layers too, which then are gathered for each product alone. Stage 0 spreads nothing. The step equals one of a single
process that takes the batches of all ranks one after the other.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindsora.nn.layers import Linear
from mindsora.parallel.buckets import Buckets
from mindsora.parallel.collectives import AllGather, AllReduce, Group
from mindsora.parallel.gathered import GatheredMatMul
from mindsora.parallel.layout import Mesh
from mindsora.train.checkpoint import TRANSIENT
from mindsora.train.clip import BatchDrop, clip_of
from mindsora.train.ema import Ema
from mindsora.train.memory import LossScale, ScaledLoss
from mindsora.train.optimizer import METRICS, AdamW, TrainStep, global_norm, zeros_like
from mindsora.train.recipe import OptimizerConfig

_map = ops.HyperMap()
# Behind METRICS: the largest loss of a rank, the time of the slowest rank's gradients, what the fastest one waits for it
# as a share of that time, and which rank is the slowest.
RANK_METRICS = ("loss_max", "rank_seconds", "rank_skew", "slowest_rank")
_PART = f"{TRANSIENT}part."  # prefix of a rank's part of a float32 weight, which the state has as a whole


def step_of(
    loss: nn.Cell, config: OptimizerConfig, parts: tuple[str, ...], mesh: Mesh, zero: int
) -> "TrainStep | DataParallelStep":
    """The training step of a network for these ranks."""
    if mesh.dp.size == 1:
        return TrainStep(loss, config, parts)
    whole_shapes = share_weights(loss, mesh.dp) if zero == 3 else {}
    return DataParallelStep(loss, config, parts, mesh.dp, zero, whole_shapes)


def share_weights(loss: nn.Cell, group: Group) -> dict[str, tuple[int, int]]:
    """Leave this rank's part of the weight of every linear layer. Returns the whole weights' shapes, by name."""
    shapes = {}
    for _, cell in loss.cells_and_names():
        if isinstance(cell, Linear) and cell.weight.requires_grad:
            weight = cell.weight
            shapes[weight.name] = weight.shape
            part = Buckets(group, (weight.shape,)).own(weight.astype(ms.float32).asnumpy(), 0)
            cell.product = GatheredMatMul(group, weight.shape)
            cell.weight = Parameter(Tensor(part).astype(weight.dtype), name=weight.name)
    return shapes


def _sum_of_squares(gradient):
    return (gradient * gradient).sum().reshape(1)


def _scaled(factor, gradient):
    return ops.select(factor == 0, ops.zeros_like(gradient), gradient * factor)  # NaN times 0 would still be NaN


def _add(total, gradient):
    return total + gradient


def _as_float32(gradient):
    return gradient.astype(ms.float32)


def _cast_to(weight, value):
    return ops.assign(weight, value.astype(weight.dtype))


def _clear(total):
    return ops.assign(total, ops.zeros_like(total))


class Gradients(nn.Cell):
    """The loss of a batch and its gradients, which need no other rank."""

    def __init__(self, loss: nn.Cell, weights: ParameterTuple, loss_scale: LossScale | None):
        super().__init__(auto_prefix=False)
        self.scales = loss_scale is not None
        scaled = ScaledLoss(loss, loss_scale.scale) if self.scales else loss
        self.value_and_grad = ms.value_and_grad(scaled, None, weights=weights, has_aux=True)

    def construct(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """loss (), parts (N,), then the gradients, times the loss scale."""
        if self.scales:
            (_, (loss, parts)), gradients = self.value_and_grad(*batch)
        else:
            (loss, parts), gradients = self.value_and_grad(*batch)
        return (loss, parts) + gradients


class Update(nn.Cell):
    """Reduce the gradients over the ranks, clip, update and average. See `mindsora.train.optimizer.TrainStep`."""

    def __init__(
        self, weights: ParameterTuple, config: OptimizerConfig, group: Group, zero: int, whole_shapes: dict[str, tuple]
    ):
        super().__init__(auto_prefix=False)
        self.size, self.rank, self.zero, self.accumulate = group.size, group.rank, zero, config.accumulate
        self.in_parts = tuple(w.name in whole_shapes for w in weights)  # their gradients come in, summed over the ranks
        self.whole = ParameterTuple([w for w in weights if w.name not in whole_shapes])
        self.buckets = Buckets(group, tuple(w.shape for w in self.whole))
        self.parts = Buckets(group, tuple(whole_shapes[w.name] for w in weights if w.name in whole_shapes))
        places = iter(range(len(self.whole)))
        trained = weights
        if zero:
            parts = [w if given else self._part(w, next(places)) for w, given in zip(weights, self.in_parts)]
            trained = ParameterTuple(parts)
        self.adamw = AdamW(trained, tuple(config.betas), config.eps, config.weight_decay)
        self.ema = Ema(self.adamw.masters, config.ema, config.ema_schedule)
        self.drop = BatchDrop(config.clip_decay) if config.clip == "batch_drop" else None
        self.clip = None if self.drop else clip_of(config)
        self.loss_scale = LossScale() if any(w.dtype == ms.float16 for w in weights) else None
        self.sums = None
        if config.accumulate > 1:
            self.sums = zeros_like(f"{TRANSIENT}sum", trained if zero >= 2 else weights)
        self.total, self.rows = AllReduce(group), AllGather(group, 0)

    def _part(self, weight: Parameter, i: int) -> Parameter:
        values = self.buckets.own(weight.astype(ms.float32).asnumpy(), i)
        return Parameter(Tensor(values), name=f"{_PART}{weight.name}", requires_grad=False)

    def scattered(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The own part of every gradient's sum over the ranks, float32."""
        others = ()
        for i in range(len(gradients)):
            if not self.in_parts[i]:
                others = others + (gradients[i],)
        sums, out, place = self.buckets.scattered(others), (), 0
        for i in range(len(gradients)):
            if self.in_parts[i]:
                out = out + (gradients[i].astype(ms.float32),)
            else:
                out = out + (sums[place],)
                place += 1
        return out

    def collect(self, *gradients: Tensor) -> Tensor:
        """Add the gradients of a batch to those of the step. Returns a value to wait for."""
        gradients = self.scattered(gradients) if self.zero >= 2 else _map(_as_float32, gradients)
        _map(ops.assign_add, self.sums, gradients)
        return gradients[0].reshape(-1)[:1]

    def construct(self, lr: Tensor, seconds: Tensor, loss: Tensor, logged: Tensor, *gradients: Tensor) -> Tensor:
        """The update, with the gradients of the last batch.

        Args:
            lr: ().
            seconds: () that this rank's gradients took.
            loss, logged: () and (N,) of the last batch.

        Returns:
            METRICS, RANK_METRICS and `logged`, the loss and `logged` as means over the ranks.
        """
        mean = ops.ones_like(lr) / self.accumulate
        if self.loss_scale is not None:
            mean = mean / self.loss_scale.scale
        factor, threshold, extreme = None, None, None
        if self.zero >= 2:
            gradients = self.scattered(gradients)
            if self.sums is not None:
                gradients = _map(_add, self.sums, gradients)
        else:
            gradients = _map(_as_float32, gradients)
            if self.sums is not None:
                gradients = _map(_add, self.sums, gradients)
            if self.drop is not None:
                factors, threshold, extreme = self.drop(self.rows((global_norm(gradients) * mean).reshape(1)))
                gradients = _map(ops.partial(_scaled, factors[self.rank]), gradients)
            gradients = self.scattered(gradients) if self.zero else self.buckets.summed(gradients)
        mean = mean / self.size
        norm = self.norm(gradients) * mean
        if self.drop is not None:
            factor = ops.ones_like(norm)
        else:
            factor, threshold, extreme = self.clip(norm)
        n = self.adamw(lr, factor * mean, extreme, gradients)
        self.ema(n, extreme)
        if self.loss_scale is not None:
            self.loss_scale(norm)
        if self.sums is not None:
            _map(_clear, self.sums)
        row = ops.concat((ops.stack((loss.astype(ms.float32), seconds)), logged.astype(ms.float32))).reshape(1, -1)
        rows = self.rows(ops.depend(row, norm))  # (size, 2 + N)
        if self.zero:
            parts = ()
            for i in range(len(self.in_parts)):
                if not self.in_parts[i]:
                    parts = parts + (self.adamw.masters[i],)
            _map(_cast_to, self.whole, self.buckets.gathered(parts, rows))
        skipped = (self.clip if self.drop is None else self.drop).skipped.astype(ms.float32)
        means, times = rows.mean(0), rows[:, 1]
        slowest = times.max()
        skew = (slowest - times.min()) / ops.maximum(slowest, 1e-9)
        ours = ops.stack((means[0], norm, threshold, factor, extreme.astype(ms.float32), skipped))
        ranks = ops.stack((rows[:, 0].max(), slowest, skew, times.argmax().astype(ms.float32)))
        return ops.concat((ours, ranks, means[2:]))

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """L2 norm of gradients that are whole on every rank, or spread over the ranks."""
        if not self.zero:
            return global_norm(gradients)
        return ops.sqrt(self.total(ops.concat(_map(_sum_of_squares, gradients)).sum().reshape(1)))[0]


class Spread(NamedTuple):
    """A state's tensor of which every rank has a part; it behaves like the Parameter of a single process.

    Attributes:
        part: this rank's, (part,).
        whole: a Parameter with all values, which is set too; None if there is none.
    """

    name: str
    part: Parameter
    buckets: Buckets
    number: int
    whole: Parameter | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.buckets.shapes[self.number]

    @property
    def dtype(self):
        return self.part.dtype if self.whole is None else self.whole.dtype

    def asnumpy(self) -> np.ndarray:
        """All values. Every rank must call it."""
        if self.whole is not None:
            return self.whole.asnumpy()
        joined = self.buckets.all_gather(Tensor(self.part.asnumpy())).asnumpy()
        return joined[: self.buckets.counts[self.number]].reshape(self.shape)

    def set_data(self, values: Tensor) -> None:
        own = self.buckets.own(values.astype(ms.float32).asnumpy(), self.number)
        self.part.set_data(Tensor(own).astype(self.part.dtype))
        if self.whole is not None:
            self.whole.set_data(values)


class DataParallelStep:
    """Gradients of own batches, and the update of all ranks together. See `mindsora.train.loop.Step`.

    Its state is that of one process: `get_parameters` gives what a single process has, under the same names.
    """

    def __init__(
        self,
        loss: nn.Cell,
        config: OptimizerConfig,
        parts: tuple[str, ...],
        group: Group,
        zero: int,
        whole_shapes: dict[str, tuple[int, int]],
    ):
        weights = ParameterTuple(loss.trainable_params())
        self.metrics = METRICS + RANK_METRICS + parts
        self.accumulate = config.accumulate
        self.loss, self.weights, self.zero = loss, weights, zero
        self.cell = Update(weights, config, group, zero, whole_shapes)
        self.gradients = Gradients(loss, weights, self.cell.loss_scale)

    def compiled(self) -> Callable[[int, Tensor, Sequence[tuple[Tensor, ...]]], Tensor]:
        """The update as `mindsora.train.loop.Step` describes it."""
        gradients, run = ms.jit(self.gradients), ms.jit(self.cell)
        collect = ms.jit(self.cell.collect) if self.accumulate > 1 else None

        def update(number: int, lr: Tensor, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
            seconds = 0.0
            for batch in batches:
                before = time.perf_counter()
                loss, parts, *values = gradients(*batch)
                loss.asnumpy()  # waits
                seconds += time.perf_counter() - before
                if batch is not batches[-1]:
                    collect(*values)
            return run(lr, Tensor(seconds, ms.float32), loss, parts, *values)

        return update

    def get_parameters(self) -> Iterable[Parameter | Spread]:
        """What the state of a single process holds."""
        spread = {part.name: one for part, one in self._spread()}
        covered = {one.name for one in spread.values()}
        parameters = {p.name: p for cell in (self.loss, self.cell) for p in cell.get_parameters()}
        for name, parameter in parameters.items():
            if name in spread:
                yield spread[name]
            elif name not in covered:
                yield parameter

    def _spread(self) -> Iterator[tuple[Parameter, Spread]]:
        """Every parameter of which this rank has a part, and its place in the state."""
        if not self.zero:
            return
        adamw = self.cell.adamw
        for weight, place, *state in zip(
            self.weights, self._places(), adamw.masters, adamw.moment1, adamw.moment2, self.cell.ema.averages
        ):
            name, half = weight.name, weight.dtype != ms.float32
            kept = f"master.{name}" if half else name
            if place[0] is self.cell.parts:
                yield weight, Spread(name, weight, *place)
            if half or place[0] is self.cell.buckets:
                yield state[0], Spread(kept, state[0], *place, None if half else weight)
            for part, prefix in zip(state[1:], (f"moment1.{name}", f"moment2.{name}", f"ema.{kept}")):
                yield part, Spread(prefix, part, *place)

    def _places(self) -> Iterator[tuple[Buckets, int]]:
        """Where each weight stands: its buckets and its number there."""
        counts = {True: 0, False: 0}
        for given in self.cell.in_parts:
            yield self.cell.parts if given else self.cell.buckets, counts[given]
            counts[given] += 1

    def averages(self) -> dict[str, np.ndarray]:
        """The moving average of every weight, by the weight's name in the loss Cell. Every rank must call it."""
        averages = list(self.cell.ema.averages)
        if self.zero:
            averages = [Spread(p.name, p, *place) for p, place in zip(averages, self._places())]
        return {weight.name: average.asnumpy() for weight, average in zip(self.weights, averages)}
