"""Rules that decide on an update by its gradient norm: scale it, skip it, or leave it as it is.

Each rule is a Cell: norm () float32 -> (factor for the gradients, threshold, whether to skip the step), each (). Its
state is parameters, which a checkpoint keeps, and `skipped` counts the skipped steps.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindsora.train.recipe import OptimizerConfig

EPS = 1e-6


def clip_of(config: OptimizerConfig) -> nn.Cell:
    """The rule of a recipe's `optimizer.clip`."""
    if config.clip == "norm":
        return NormClip(config.clip_norm)
    if config.clip == "batch_drop":
        return RankDrop(config.clip_decay)
    return AdaptiveClip(config.clip_decay, config.clip_escape)


def _state(name: str, value, dtype) -> Parameter:
    return Parameter(Tensor(value, dtype), name=f"clip_{name}", requires_grad=False)


class AdaptiveClip(nn.Cell):
    """The threshold follows the gradient norm (Open-Sora Plan v1.5).

    Let m and v be the mean and variance of the norm so far. A norm up to m + 3 sqrt(v) passes and updates m and v. A
    norm up to max(m + 5 sqrt(v), 5) is scaled back to the threshold and does not update them. A larger norm, NaN or
    infinity is extreme. Upstream applies an extreme update, then stops and saves the damaged weights; here the step
    skips the update. Upstream also loses m and v at every restart; here the state keeps them.

    Args:
        decay: of the moving mean and variance. None leaves gradients unscaled; then only NaN and infinity are extreme.
        escape: after so many steps scaled back in a row the rule starts anew, as in the first step; 0: never. A low
            first norm would otherwise hold the threshold down for ever.
    """

    def __init__(self, decay: float | None = 0.99, escape: int = 0):
        super().__init__()
        self.decay, self.escape = decay, escape
        # A mean below 0 means no step yet. `clipped` counts steps scaled back, `clipped_in_row` those without a break.
        self.mean = _state("mean", -1e6, ms.float32)
        self.variance = _state("variance", 0.0, ms.float32)
        self.clipped = _state("clipped", 0, ms.int32)
        self.clipped_in_row = _state("clipped_in_row", 0, ms.int32)
        self.skipped = _state("skipped", 0, ms.int32)

    def construct(self, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        finite = ops.isfinite(norm)
        if self.decay is None:
            ops.assign_add(self.skipped, 1 - finite.astype(ms.int32))
            return ops.ones_like(norm), ops.zeros_like(norm), ops.logical_not(finite)

        m, v, in_row = self.mean.value(), self.variance.value(), self.clipped_in_row.value()
        first = m < 0
        if self.escape:
            first = ops.logical_or(first, in_row >= self.escape)
        threshold = ops.where(first, ops.minimum(3 * norm, 1.0), m + 3 * ops.sqrt(v))
        limit = ops.maximum(m + 5 * ops.sqrt(v), 5.0)
        extreme = ops.logical_or(ops.logical_not(finite), ops.logical_and(ops.logical_not(first), norm > limit))
        clipped = ops.logical_and(ops.logical_not(ops.logical_or(first, extreme)), norm > threshold)
        learned = ops.logical_not(ops.logical_or(ops.logical_or(first, extreme), clipped))

        new_m = self.decay * m + (1 - self.decay) * norm
        new_v = self.decay * v + (1 - self.decay) * (new_m - norm) ** 2  # deviation from the new mean
        start = ops.logical_and(first, finite)
        ops.assign(self.mean, ops.where(start, threshold, ops.where(learned, new_m, m)))
        ops.assign(self.variance, ops.where(start, ops.zeros_like(v), ops.where(learned, new_v, v)))
        ops.assign(self.clipped_in_row, ops.where(extreme, in_row, (in_row + 1) * clipped.astype(ms.int32)))
        ops.assign_add(self.clipped, clipped.astype(ms.int32))
        ops.assign_add(self.skipped, extreme.astype(ms.int32))
        return ops.where(clipped, 1 / (norm / threshold + EPS), ops.ones_like(norm)), threshold, extreme


class NormClip(nn.Cell):
    """Scale a larger norm back to `largest`; NaN and infinity are skipped."""

    def __init__(self, largest: float):
        super().__init__()
        self.largest = largest
        self.skipped = _state("skipped", 0, ms.int32)

    def construct(self, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bad = ops.logical_not(ops.isfinite(norm))
        ops.assign_add(self.skipped, bad.astype(ms.int32))
        factor = ops.minimum(self.largest / (norm + EPS), ops.ones_like(norm))
        return factor, self.largest * ops.ones_like(norm), bad


class BatchDrop(nn.Cell):
    """Drop the batches of data-parallel ranks with a large gradient norm (arXiv 2412.00131, section 3.2).

    A rank whose norm is above m + 3 sqrt(v), or not finite, contributes nothing; N ranks of which M are kept weigh N / M
    each, so that their mean over all N is the mean over the kept ones. m and v follow the largest kept norm, unless two
    or more ranks were dropped. The first step keeps every finite norm, and m and v start at the largest of them. If
    every rank is dropped the step is skipped (upstream divides by zero).
    """

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay
        self.mean = _state("mean", -1e6, ms.float32)
        self.variance = _state("variance", 0.0, ms.float32)
        self.dropped = _state("dropped", 0, ms.int32)  # batches of single ranks
        self.skipped = _state("skipped", 0, ms.int32)

    def construct(self, norms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Norms of the ranks (N,) float32, before the reduction -> (factor of each rank (N,), threshold (), skip ())."""
        m, v = self.mean.value(), self.variance.value()
        finite, first = ops.isfinite(norms), m < 0
        threshold = m + 3 * ops.sqrt(v)
        kept = ops.logical_and(finite, ops.logical_or(first, norms <= threshold))
        count = kept.astype(ms.float32).sum()
        largest = ops.where(kept, norms, ops.zeros_like(norms)).max()
        dropped = norms.shape[0] - count
        skip = count < 1

        new_m = self.decay * m + (1 - self.decay) * largest
        new_v = self.decay * v + (1 - self.decay) * (new_m - largest) ** 2
        start = ops.logical_and(first, ops.logical_not(skip))
        learned = ops.logical_and(ops.logical_and(ops.logical_not(first), ops.logical_not(skip)), dropped < 2)
        ops.assign(self.mean, ops.where(start, largest, ops.where(learned, new_m, m)))
        ops.assign(self.variance, ops.where(start, largest, ops.where(learned, new_v, v)))
        ops.assign_add(self.dropped, dropped.astype(ms.int32))
        ops.assign_add(self.skipped, skip.astype(ms.int32))
        factors = kept.astype(ms.float32) * (norms.shape[0] / ops.maximum(count, 1.0))
        return factors, threshold, skip


class RankDrop(nn.Cell):
    """`BatchDrop` for a single rank, whose step is either taken or skipped."""

    def __init__(self, decay: float):
        super().__init__(auto_prefix=False)
        self.drop = BatchDrop(decay)
        self.skipped = self.drop.skipped

    def construct(self, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, threshold, skip = self.drop(norm.reshape(1))
        return ops.ones_like(norm), threshold, skip
