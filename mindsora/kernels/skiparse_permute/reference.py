"""Skiparse as reshapes and one transpose: the only Python that maps tokens to sub-sequences.

N tokens are padded with zeros at the end to P = n^2 * ceil(N / n^2) and dealt out to n sub-sequences of R = P / n rows:

    single skip   token i -> sub-sequence i mod n,       row i div n
    group skip    token i -> sub-sequence i div n mod n, row (i div n^2) * n + i mod n

Open-Sora Plan v1.3 and v1.5; specification: Open-Sora Plan v1.3 report, "Skiparse attention".
"""

import math

import numpy as np
from mindspore import Tensor, ops

from mindsora.kernels import forms


def padded_length(tokens: int, n: int) -> int:
    """P: the number of tokens of all n sub-sequences, padding included; `tokens` itself if n = 1."""
    return -(-tokens // n**2) * n**2


def real_rows(tokens: int, n: int, group: bool) -> np.ndarray:
    """How many of N tokens each of the n sub-sequences gets, padding left out: (n,)."""
    token = np.arange(tokens)
    return np.bincount(token // n % n if group else token % n, minlength=n)


def permute(x: Tensor, *, sparse_n: int, group: bool) -> Tensor:
    """(B, N, ...) -> (B, n, R, ...), padding rows zero."""
    n, batch, tokens, rest = sparse_n, x.shape[0], x.shape[1], x.shape[2:]
    width = math.prod(rest)
    x = x.reshape(batch, tokens, width)
    padding = padded_length(tokens, n) - tokens
    if padding:  # by concatenation: under ms.jit the gradient of ops.pad is wrong from its second call on (2.10, CPU)
        x = ops.concat((x, ops.zeros((batch, padding, width), x.dtype)), 1)
    rows = (tokens + padding) // n
    if group:
        x = x.reshape(batch, rows // n, n, n, width).transpose(0, 2, 1, 3, 4)
    else:
        x = x.reshape(batch, rows, n, width).transpose(0, 2, 1, 3)
    return x.reshape((batch, n, rows) + rest)


def unpermute(x: Tensor, *, tokens: int, group: bool) -> Tensor:
    """Inverse of `permute`: (B, n, R, ...) -> (B, N, ...), padding rows dropped."""
    batch, n, rows, rest = x.shape[0], x.shape[1], x.shape[2], x.shape[3:]
    width = math.prod(rest)
    if group:
        x = x.reshape(batch, n, rows // n, n, width).transpose(0, 2, 1, 3, 4)
    else:
        x = x.reshape(batch, n, rows, width).transpose(0, 2, 1, 3)
    x = x.reshape((batch, rows * n) + rest)
    return x if tokens == rows * n else forms.narrow(x, 1, 0, tokens)
