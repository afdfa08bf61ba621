"""What CLIP's text encoder takes: operations of one text, bytes beside its weights. See mindsora.models.cost."""

from collections import Counter


def depth(config) -> int:
    """Number of layers."""
    return config.num_hidden_layers


def operations(config, length: int) -> Counter:
    """One text of `length` tokens, padding included."""
    width = config.hidden_size
    linear = 2 * length * (4 * width**2 + 2 * width * config.intermediate_size)
    return Counter(
        attention=config.num_hidden_layers * 4 * length**2 * width,
        linear=config.num_hidden_layers * linear + 2 * width * config.projection_dim,
    )


def memory(config, rows: int, length: int) -> int:
    """Bytes: scores of all heads in float32, or the feed-forward layer."""
    return 4 * rows * max(4 * config.num_attention_heads * length**2, 5 * length * config.intermediate_size)
