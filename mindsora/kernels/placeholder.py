"""What compiled operators are given where an input is absent: they take a fixed number of tensors, and None is none."""

from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor


@cache
def nothing(dtype: str) -> Tensor:
    """A tensor of one axis, which no input that may be absent has."""
    return Tensor(np.zeros(1, dtype))


@cache
def constant(value: float, size: int) -> Tensor:
    return Tensor(np.full(size, value, np.float32))


def learned(row: Tensor | None, value: float, size: int) -> Tensor:
    """A weight or bias (size,) as the operators take it: float32, `value` where there is none."""
    return constant(value, size) if row is None else row.astype(ms.float32)
