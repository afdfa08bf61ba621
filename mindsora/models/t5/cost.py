"""What a T5 encoder takes: operations of one text, bytes beside its weights. See mindsora.models.cost."""

from collections import Counter


def depth(config) -> int:
    """Number of blocks."""
    return config.num_layers


def operations(config, length: int) -> Counter:
    """One text of `length` tokens, padding included."""
    inner = config.num_heads * config.d_kv
    linear = 2 * length * (4 * config.d_model * inner + 3 * config.d_model * config.d_ff)
    return Counter(attention=config.num_layers * 4 * length**2 * inner, linear=config.num_layers * linear)


def memory(config, rows: int, length: int) -> int:
    """Bytes: scores of all heads (position bias, scores, sum, softmax) in float32; or the gated feed-forward layer."""
    return 4 * rows * max(4 * config.num_heads * length**2, 5 * length * config.d_ff)
