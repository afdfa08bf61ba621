"""Deal tokens out to the n sub-sequences of skiparse attention, and put them back. See README.md."""

import math

from mindspore import Tensor, ops

from mindsora.errors import InputError
from mindsora.kernels.ascend import custom
from mindsora.kernels.choice import choose
from mindsora.kernels.skiparse_permute import cpu, reference


def skiparse_permute(x: Tensor, *, sparse_n: int, group: bool) -> Tensor:
    """Deal tokens out to sub-sequences; `reference` gives the map.

    Args:
        x: tokens (B, N, ...) of any dtype.
        sparse_n: number of sub-sequences n.
        group: group skip (odd blocks) instead of single skip.

    Returns:
        (B, n, R, ...) with R = n * ceil(N / n^2); rows without a token are zero and come last.

    Raises:
        InputError: fewer than two axes, or n below 1.
    """
    kind = _kind(x.dtype, x.shape, 2, sparse_n)
    if kind == "reference":
        return reference.permute(x, sparse_n=sparse_n, group=group)
    if kind == "ascend_custom":
        return custom.permute(sparse_n, group, x.shape[1])(x)
    return cpu.permute(sparse_n, group, x.shape[1])(x)


def skiparse_unpermute(x: Tensor, *, tokens: int, group: bool) -> Tensor:
    """Inverse of `skiparse_permute`, and its gradient.

    Args:
        x: (B, n, R, ...).
        tokens: N, the length to return to.
        group: as in `skiparse_permute`.

    Returns:
        (B, N, ...); padding rows are dropped.

    Raises:
        InputError: fewer than three axes, or a number of tokens that does not make R rows.
    """
    _check_rows(x.shape, tokens)
    kind = _kind(x.dtype, x.shape, 3, x.shape[1])
    if kind == "reference":
        return reference.unpermute(x, tokens=tokens, group=group)
    if kind == "ascend_custom":
        return custom.unpermute(x.shape[1], group, tokens)(x)
    return cpu.unpermute(x.shape[1], group, tokens)(x)


@ops.constexpr
def _kind(dtype, shape, least, sparse_n):
    if len(shape) < least:
        raise InputError(f"x has {len(shape)} axes; it needs at least {least}")
    if sparse_n < 1:
        raise InputError(f"sparse_n {sparse_n} must be 1 or more; 1 is full attention")
    return choose("skiparse_permute", {"x": dtype}, dtype=dtype, width=math.prod(shape[least:]))


@ops.constexpr
def _check_rows(shape, tokens):
    n, rows = shape[1], shape[2]
    if reference.padded_length(tokens, n) != n * rows:
        raise InputError(
            f"{tokens} tokens do not fill {n} sub-sequences of {rows} rows; legal: {n * rows - n * n + 1} to {n * rows}"
        )
