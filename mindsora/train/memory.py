"""What a training holds on the device: the dtype of its weights, and the activations that the backward pass recomputes."""

from collections.abc import Iterator

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindsora.errors import InputError
from mindsora.nn.precision import set_precision

PRECISIONS = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


def train_in(cell: nn.Cell, precision: str) -> nn.Cell:
    """Give a model the dtype `run.precision`; see `set_precision` for the weights that stay float32.

    Raises:
        InputError: bfloat16 on CPU.
    """
    if precision == "bfloat16" and ms.get_context("device_target") == "CPU":
        raise InputError("run.precision = bfloat16: CPU has no bfloat16 matrix product; choose float32, or float16")
    return set_precision(cell, PRECISIONS[precision])


def blocks_of(denoiser: nn.Cell) -> list[nn.Cell]:
    """The transformer blocks of a denoiser, in the order of the forward pass."""
    return list(_leaves(denoiser.transformer_blocks))


def _leaves(cells: nn.CellList) -> Iterator[nn.Cell]:
    for cell in cells:
        yield from _leaves(cell) if isinstance(cell, nn.CellList) else (cell,)


def recompute(denoiser: nn.Cell, blocks: int, feed_forward: int) -> None:
    """Let the backward pass compute activations again instead of keeping them.

    Args:
        blocks: the first so many blocks keep their inputs alone.
        feed_forward: in the first so many blocks only the feed-forward layers do so; attention is kept.

    Raises:
        InputError: more blocks than there are.
    """
    cells = blocks_of(denoiser)
    for key, number in (("recompute", blocks), ("recompute_feed_forward", feed_forward)):
        if number > len(cells):
            raise InputError(f"run.{key} = {number}: the model has {len(cells)} blocks; give {len(cells)} for all")
    for block in cells[:blocks]:
        block.recompute()
    for block in cells[:feed_forward]:
        for layer in (block.ff, getattr(block, "ff_enc", None)):
            if layer is not None:
                layer.recompute()


class LossScale(nn.Cell):
    """Factor of the loss that keeps float16 gradients above its smallest number, 6e-8.

    It halves after an infinite gradient, whose step is skipped, and doubles after `patience` finite ones in a row.
    """

    def __init__(self, scale: float = 2.0**16, patience: int = 2000):
        super().__init__()
        self.patience = patience
        self.scale = Parameter(Tensor(scale, ms.float32), name="loss_scale", requires_grad=False)
        self.finite_steps = Parameter(Tensor(0, ms.int32), name="loss_scale_steps", requires_grad=False)

    def construct(self, norm: Tensor):
        """norm (): of the step's gradients."""
        finite = ops.isfinite(norm)
        steps = (self.finite_steps + 1) * finite.astype(ms.int32)
        grow = steps >= self.patience
        kept = ops.where(grow, 2 * self.scale, self.scale.value())
        ops.assign(self.scale, ops.where(finite, kept, self.scale / 2))
        return ops.assign(self.finite_steps, ops.where(grow, ops.zeros_like(steps), steps))


class ScaledLoss(nn.Cell):
    """A loss times the scale, with the unscaled one beside its parts."""

    def __init__(self, loss: nn.Cell, scale: Parameter):
        super().__init__(auto_prefix=False)
        self.loss, self.scale = loss, scale

    def construct(self, *batch: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A batch -> scaled loss (), (loss (), parts (N,))."""
        loss, parts = self.loss(*batch)
        return loss * self.scale, (loss, parts)
