"""The compiled permutation (skiparse_permute.cpp), with gradients in both modes."""

from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels.choice import symbol
from mindsora.kernels.skiparse_permute.reference import padded_length

# Numbers travel as the shapes of tensors: shape inference sees nothing else, and MindSpore keeps one inference function
# per symbol, so a closure over one layer's numbers would be used for every other layer too.


@cache
def skip(sparse_n: int, group: bool) -> Tensor:
    """n and the kind of skip as C++ reads them (skiparse.h)."""
    return Tensor(np.zeros((sparse_n, 1 + group), np.int8))


@cache
def target(tokens: int, group: bool) -> Tensor:
    """The length to return to, and the kind of skip."""
    return Tensor(np.zeros((1 + group, tokens), np.int8))


class Permute(nn.Cell):
    """(B, N, ...) -> (B, n, R, ...); the gradient is the inverse."""

    def __init__(self, sparse_n: int, group: bool, tokens: int):
        super().__init__()
        self.skip, self.target = skip(sparse_n, group), target(tokens, group)
        self.there = ops.Custom(symbol("skiparse_permute", "SkiparsePermute"), _rows, _same_type, "aot")
        self.back = ops.Custom(symbol("skiparse_permute", "SkiparseUnpermute"), _tokens, _same_type, "aot")

    def construct(self, x: Tensor) -> Tensor:
        return self.there(x, self.skip)

    def bprop(self, x, out, dout):
        return (self.back(dout, self.target),)


class Unpermute(Permute):
    """(B, n, R, ...) -> (B, N, ...); the gradient is `Permute`."""

    def construct(self, x: Tensor) -> Tensor:
        return self.back(x, self.target)

    def bprop(self, x, out, dout):
        return (self.there(dout, self.skip),)


permute = cache(Permute)
unpermute = cache(Unpermute)


def _rows(x, skip):
    return (x[0], skip[0], padded_length(x[1], skip[0]) // skip[0]) + tuple(x[2:])


def _tokens(x, target):
    return (x[0], target[1]) + tuple(x[3:])


def _same_type(x, *_):
    return x
