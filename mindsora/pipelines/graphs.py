"""A pipeline's graphs, and when they compile."""

import time
from collections.abc import Callable

import mindspore as ms
from mindspore import Tensor, nn

from mindsora.interrupts import interruptible


class Graph:
    """A Cell compiled by ms.jit: once for each combination of its inputs' shapes, at the first call with it.

    Args:
        name: what users know it by, such as "the denoiser".
        jit_level: "O0" or "O1"; "off" runs the Cell in PyNative.
        report: called with `name` and the seconds of every call that compiled, its first run included.
    """

    def __init__(self, cell: nn.Cell, name: str, jit_level: str, report: Callable[[str, float], None]):
        self.name, self.jit_level, self.report = name, jit_level, report
        self.function = cell if jit_level == "off" else ms.jit(cell, jit_level=jit_level)
        self._compiled = set()

    def __call__(self, *inputs: Tensor | tuple | None):
        """The Cell's result. Each value of a Python number compiles a graph of its own, except in a mutable tuple."""
        shapes = _shapes(inputs)
        if self.jit_level == "off":
            return self.function(*inputs)
        start = time.perf_counter()
        with interruptible():
            result = self.function(*inputs)
        if shapes in self._compiled:
            return result
        self._compiled.add(shapes)
        self.report(self.name, time.perf_counter() - start)
        return result


def _shapes(inputs: tuple) -> tuple:
    return tuple(_shapes(x) if isinstance(x, tuple) else getattr(x, "shape", None) for x in inputs)
