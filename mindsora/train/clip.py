"""Adaptive gradient clipping: the threshold follows the gradient norm (Open-Sora Plan v1.5).

Let m and v be the mean and variance of the norm so far. A norm up to m + 3 sqrt(v) passes and updates m and v. A norm up
to max(m + 5 sqrt(v), 5) is scaled back to the threshold and does not update them. A larger norm, NaN or infinity is
extreme. Upstream applies an extreme update, then stops and saves the damaged weights; here the step skips the update.
Upstream also loses m and v at every restart; here they are parameters, which the state keeps.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops


class AdaptiveClip(nn.Cell):
    """The rule for one step, and its state.

    Args:
        decay: of the moving mean and variance. None leaves gradients unscaled; then only NaN and infinity are extreme.
    """

    def __init__(self, decay: float | None = 0.99):
        super().__init__()
        self.decay = decay
        # A mean below 0 means no step yet. `clipped` counts steps scaled back, `skipped` counts extreme steps.
        self.mean = Parameter(Tensor(-1e6, ms.float32), name="clip_mean", requires_grad=False)
        self.variance = Parameter(Tensor(0.0, ms.float32), name="clip_variance", requires_grad=False)
        self.clipped = Parameter(Tensor(0, ms.int32), name="clip_clipped", requires_grad=False)
        self.skipped = Parameter(Tensor(0, ms.int32), name="clip_skipped", requires_grad=False)

    def construct(self, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """norm () float32 -> (factor for the gradients, threshold, whether the step is extreme), each ()."""
        finite = ops.isfinite(norm)
        if self.decay is None:
            ops.assign_add(self.skipped, 1 - finite.astype(ms.int32))
            return ops.ones_like(norm), ops.zeros_like(norm), ops.logical_not(finite)

        m, v = self.mean.value(), self.variance.value()
        first = m < 0
        threshold = ops.where(first, ops.minimum(3 * norm, 1.0), m + 3 * ops.sqrt(v))
        limit = ops.maximum(m + 5 * ops.sqrt(v), 5.0)
        extreme = ops.logical_or(ops.logical_not(finite), ops.logical_and(ops.logical_not(first), norm > limit))
        clipped = ops.logical_and(ops.logical_not(ops.logical_or(first, extreme)), norm > threshold)
        learned = ops.logical_not(ops.logical_or(ops.logical_or(first, extreme), clipped))

        new_m = self.decay * m + (1 - self.decay) * norm
        new_v = self.decay * v + (1 - self.decay) * (new_m - norm) ** 2  # deviation from the new mean
        start = ops.logical_and(first, finite)
        ops.assign(self.mean, ops.where(start, threshold, ops.where(learned, new_m, m)))
        ops.assign(self.variance, ops.where(learned, new_v, v))
        ops.assign_add(self.clipped, clipped.astype(ms.int32))
        ops.assign_add(self.skipped, extreme.astype(ms.int32))
        return ops.where(clipped, 1 / (norm / threshold + 1e-6), ops.ones_like(norm)), threshold, extreme
