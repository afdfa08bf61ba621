"""Dense attention with an additive bias, for the short sequences of the text encoders."""

import mindspore as ms
from mindspore import Tensor, ops

# Batched 3-D products: the form that runs at full speed on CPU and Ascend.
_queries_keys = ops.BatchMatMul(transpose_b=True)
_scores_values = ops.BatchMatMul()

MASKED = -3.4028234663852886e38  # the most negative float32, not -inf, so that a row without keys does not become NaN


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """softmax(q k^T + bias) v for each head. It does not scale q k^T: the caller scales q if it needs that.

    Args:
        q, k, v: (B, L, heads * K), heads side by side.
        bias: float32, broadcast to (B, heads, L, L).

    Returns:
        (B, L, heads * K) in v's dtype. The softmax is float32 in every dtype.
    """
    batch, length, width = q.shape
    q, k, v = split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)  # (B heads, L, K)
    scores = _queries_keys(q, k).astype(ms.float32).reshape(batch, heads, length, length) + bias
    weights = ops.softmax(scores, -1).astype(v.dtype).reshape(batch * heads, length, length)
    out = _scores_values(weights, v).reshape(batch, heads, length, width // heads)
    return out.transpose(0, 2, 1, 3).reshape(batch, length, width)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, heads * K) -> (B heads, L, K)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3).reshape(-1, length, width // heads)
