"""Operations and memory of Toy; see mindsora.models.cost."""

from collections import Counter

from mindsora.models.cost import feed_forward_bytes


def stages(config) -> list[tuple[int, int]]:
    return [(config.num_layers, 1)]


def dense(config):
    return config


def operations(config, tokens: int, text: int) -> Counter:
    c = config.dim
    return Counter(
        attention=config.num_layers * 4 * tokens**2 * c,
        linear=config.num_layers * 2 * tokens * 11 * c * c,  # q, k, v and the feed-forward's 8
        other=2 * 2 * tokens * c * config.patch_size**2 * config.in_channels
        + 2 * config.caption_channels * c
        + 2 * 2 * c * c,
    )


def memory(config, rows: int, tokens: int, text: int, size: int, cpu: bool) -> int:
    return feed_forward_bytes(rows * tokens * config.dim, size, cpu)
