"""What SUV takes: operations of one row and one evaluation, bytes beside its weights. See mindsora.models.cost."""

from collections import Counter
from dataclasses import replace

from mindsora.kernels.skiparse_permute.reference import padded_length
from mindsora.models.cost import feed_forward_bytes
from mindsora.models.exchanges import Exchanges


def stages(config) -> list[tuple[int, int]]:
    """(blocks, sparse_n) of every stage."""
    return list(zip(config.num_layers, config.sparse_n))


def dense(config):
    """The configuration with full attention everywhere."""
    return replace(config, sparse_n=(1,) * len(config.sparse_n))


def operations(config, tokens: int, text: int) -> Counter:
    """One evaluation.

    Args:
        config: SUVConfig.
        tokens, text: visual and text tokens.

    Returns:
        attention (scores and their product with the values), linear (inside the blocks), skip, other.
    """
    c, e = config.dim, config.timestep_embed_dim
    count = Counter()
    for stage, (blocks, n) in enumerate(stages(config)):
        group = padded_length(tokens, n) // n
        for block in range(blocks):
            last = (stage, block) == (len(config.num_layers) - 1, config.num_layers[-1] - 1)
            answers = not last or config.last_block_text  # text is updated too
            count["attention"] += n * 4 * (group + text * answers) * (group + text) * c
            count["linear"] += 2 * tokens * 12 * c * c  # q, k, v, out and the feed-forward's 8
            count["linear"] += 2 * text * (12 if answers else 2) * c * c  # the last block's text: k and v
            count["other"] += 2 * 12 * e * c  # two modulations of 6 C
    count["skip"] += _skips(config) * 2 * (tokens + text) * 2 * c * c
    patch = config.patch_size**2
    count["other"] += 2 * tokens * c * patch * (config.in_channels + config.out_channels)
    count["other"] += 2 * text * config.caption_channels * c
    count["other"] += 2 * e * (3 * e + config.pooled_projection_dim) + 2 * 2 * e * c  # time and pooled text; norm_out
    return count


def exchanges(config, cp: int, tp: int, rows: int, tokens: int, text: int, size: int, trains: bool = False) -> Counter:
    """Bytes that a rank sends in one evaluation. See mindsora.models.exchanges."""
    count = Exchanges(cp, tp, rows, tokens, text, config.dim, size, trains)
    for stage, (blocks, n) in enumerate(stages(config)):
        for block in range(blocks):
            last = (stage, block) == (len(config.num_layers) - 1, config.num_layers[-1] - 1)
            answers = not last or config.last_block_text
            for _ in range(2):  # modulations, in float32
                count.one_way("all_gather", rows * 6 * config.dim // tp, tp, 4)
            count.attention(n, n > 1 and block % 2 == 1, 2 + answers, answers)
            count.backwards(rows * (count.share + count.text) * config.dim)  # into attention
            for _ in range(3 + answers):  # norms of queries and keys
                count.backwards(config.head_dim)
            count.layer(count.share)
            if answers:
                count.layer(count.text)
    count.one_way("all_gather", rows * 2 * config.dim // tp, tp, 4)
    count.backwards(rows * config.timestep_embed_dim, 4)
    count.output(config.patch_size**2 * config.out_channels)
    return count.bytes


def memory(config, rows: int, tokens: int, text: int, size: int, cpu: bool, tp: int = 1) -> int:
    """Bytes of activations: inside the feed-forward layers, which `tp` ranks share, and what the skips keep.

    On Ascend memory holds the input and output of GELU, each four times as wide as the stream, the stream and its norm.
    tests/ascend_sim/test_memory.py compares MindSpore's own planning with it.
    """
    elements, kept = rows * (tokens + text) * config.dim, _skips(config)
    if cpu:
        return feed_forward_bytes(elements, size, cpu, kept)
    return elements * size * 2 * 4 // tp + elements * size * (2 + kept)


def _skips(config) -> int:
    """Number of streams that the first half keeps for the second."""
    return len(config.num_layers) // 2 if config.skip_connection else 0
