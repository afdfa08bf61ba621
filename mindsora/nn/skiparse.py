"""Skiparse: n interleaved sub-sequences of a token sequence, as reshapes and one transpose.

N tokens are padded with zeros at the end to P = n^2 * ceil(N / n^2) and dealt out to n sub-sequences of R = P / n rows:

    single skip   token i -> sub-sequence i mod n,       row i div n
    group skip    token i -> sub-sequence i div n mod n, row (i div n^2) * n + i mod n

Open-Sora Plan v1.3 and v1.5; specification: Open-Sora Plan v1.3 report, "Skiparse attention".
"""

from mindspore import Tensor, ops


def padded_length(tokens: int, n: int) -> int:
    """P: the tokens of all n sub-sequences, padding included; `tokens` itself where n = 1."""
    return -(-tokens // n**2) * n**2


def gather_rows(x: Tensor, n: int, group: bool) -> Tensor:
    """Deal tokens out to sub-sequences. x: (B, N, H, D) -> (B, n, H, R, D), padding rows zero.

    Heads move in front of the rows in the same transpose, so the result is ready for a batched MatMul.
    """
    batch, tokens, heads, dim = x.shape
    if n == 1:
        return x.transpose(0, 2, 1, 3).expand_dims(1)
    padding = padded_length(tokens, n) - tokens
    if padding:  # by concatenation: under ms.jit the gradient of ops.pad is wrong from its second call on (2.10, CPU)
        x = ops.concat((x, ops.zeros((batch, padding, heads, dim), x.dtype)), 1)
    rows = (tokens + padding) // n
    if group:
        x = x.reshape(batch, rows // n, n, n, heads, dim).transpose(0, 2, 4, 1, 3, 5)
    else:
        x = x.reshape(batch, rows, n, heads, dim).transpose(0, 2, 3, 1, 4)
    return x.reshape(batch, n, heads, rows, dim)


def scatter_rows(x: Tensor, tokens: int, group: bool) -> Tensor:
    """Inverse of `gather_rows`: (B, n, H, R, D) -> (B, N, H, D), padding rows dropped."""
    batch, n, heads, rows, dim = x.shape
    if n == 1:
        return x.reshape(batch, heads, rows, dim).transpose(0, 2, 1, 3)
    if group:
        x = x.reshape(batch, n, heads, rows // n, n, dim).transpose(0, 3, 1, 4, 2, 5)
    else:
        x = x.transpose(0, 3, 1, 2, 4)
    x = x.reshape(batch, rows * n, heads, dim)
    return x if tokens == rows * n else x[:, :tokens]
