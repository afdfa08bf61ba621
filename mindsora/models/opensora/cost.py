"""What v1.3's denoisers take: operations of one row and one evaluation, bytes beside their weights. See
mindsora.models.cost.
"""

from collections import Counter
from dataclasses import replace
from itertools import groupby

from mindsora.kernels.skiparse_permute.reference import padded_length
from mindsora.models.cost import feed_forward_bytes
from mindsora.models.exchanges import Exchanges
from mindsora.models.opensora.model import SPARSE_BLOCKS, TIME_DIM


def stages(config) -> list[tuple[int, int]]:
    """(blocks, sparse_n) before, within and after the sparse blocks."""
    each = (config.sparse_n if block in SPARSE_BLOCKS else 1 for block in range(config.num_layers))
    return [(len(list(blocks)), n) for n, blocks in groupby(each)]


def dense(config):
    """The configuration with full attention everywhere."""
    return replace(config, sparse_n=1)


def operations(config, tokens: int, text: int) -> Counter:
    """One evaluation of OpenSoraT2V or OpenSoraInpaint.

    Args:
        config: OpenSoraConfig or OpenSoraInpaintConfig.
        tokens, text: visual and text tokens.

    Returns:
        attention (of the video to itself), cross_attention (to the text), linear (inside the blocks), other.
    """
    c, patch = config.dim, config.patch_size**2
    count = Counter()
    for blocks, n in stages(config):
        count["attention"] += blocks * n * 4 * (padded_length(tokens, n) // n) ** 2 * c
        count["cross_attention"] += blocks * 4 * tokens * text * c  # all of the text, in sparse blocks too
        count["linear"] += blocks * 2 * tokens * 14 * c * c  # self 4, cross 2, the feed-forward's 8
        count["linear"] += blocks * 2 * text * 2 * c * c  # the text's k and v
    count["other"] += 2 * tokens * c * patch * (config.in_channels + config.out_channels)
    count["other"] += 2 * text * (config.caption_channels * c + c * c)
    count["other"] += 2 * (TIME_DIM * c + c * c + 6 * c * c)  # time, and its modulation
    if mask := getattr(config, "vae_scale_factor_t", 0):  # masked video and mask, each merged
        count["other"] += 2 * tokens * c * (patch * (config.in_channels + mask) + 2 * c)
    return count


def exchanges(config, cp: int, tp: int, rows: int, tokens: int, text: int, size: int, trains: bool = False) -> Counter:
    """Bytes that a rank sends in one evaluation. See mindsora.models.exchanges."""
    count = Exchanges(cp, tp, rows, tokens, text, config.dim, size, trains)
    for block in range(config.num_layers):
        n = config.sparse_n if block in SPARSE_BLOCKS else 1
        count.attention(n, n > 1 and block % 2 == 1)
        count.backwards(rows * count.share * config.dim)
        count.layer(count.share)  # attention to the text, which every rank has
        count.layer(count.share)
    count.backwards(rows * text * config.dim)
    count.output(config.patch_size**2 * config.out_channels)
    return count.bytes


def memory(config, rows: int, tokens: int, text: int, size: int, cpu: bool, tp: int = 1) -> int:
    """Bytes of activations: inside the feed-forward layers, which process no text and which `tp` ranks share."""
    return feed_forward_bytes(rows * tokens * config.dim, size, cpu, tp=tp)
