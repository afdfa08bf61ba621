"""Placeholders for absent inputs: compiled operators take a fixed number of tensors and cannot take None."""

from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor


@cache
def nothing(dtype: str) -> Tensor:
    """A tensor of one axis. Every optional input has more axes, so the operators can tell them apart."""
    return Tensor(np.zeros(1, dtype))


@cache
def constant(value: float, size: int) -> Tensor:
    return Tensor(np.full(size, value, np.float32))


def learned(row: Tensor | None, value: float, size: int) -> Tensor:
    """A weight or bias (size,) as float32 for the operators, filled with `value` if `row` is None."""
    return constant(value, size) if row is None else row.astype(ms.float32)
