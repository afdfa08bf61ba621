"""The bytes that a rank sends when ranks share a denoiser: what `mindsora.parallel.collectives.counted` counts.

The models' `cost.py` add up their layers with it. All counts are of the first rank, whose share is the largest.
"""

from collections import Counter

from mindsora.parallel.collectives import sent
from mindsora.parallel.shards import Place

_ADJOINT = {"all_to_all": "all_to_all", "all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}


class Exchanges:
    """Counts one evaluation.

    Args:
        cp, tp: ranks of each group.
        rows: samples.
        tokens, text: visual and text tokens.
        width: channels of the streams.
        size: bytes of a number.
        trains: whether gradients follow.

    Attributes:
        bytes: kind -> bytes.
    """

    def __init__(self, cp: int, tp: int, rows: int, tokens: int, text: int, width: int, size: int, trains: bool):
        self.cp, self.tp, self.rows, self.tokens, self.width, self.size = cp, tp, rows, tokens, width, size
        self.share, self.text, self.trains = -(-tokens // cp), -(-text // cp), trains
        self.bytes = Counter()

    def move(self, kind: str, elements: int, ranks: int, size: int = 0, times: int = 1) -> None:
        """A collective between ranks that each go on by themselves: its adjoint follows it."""
        nbytes = times * sent(kind, elements * (size or self.size), ranks)
        self.bytes[kind] += nbytes
        if self.trains:
            self.bytes[_ADJOINT[kind]] += nbytes

    def one_way(self, kind: str, elements: int, ranks: int, size: int = 0) -> None:
        """A collective without one in its gradient."""
        self.bytes[kind] += sent(kind, elements * (size or self.size), ranks)

    def backwards(self, elements: int, size: int = 0) -> None:
        """The sum of tensor-parallel gradients."""
        if self.trains:
            self.one_way("all_reduce", elements, self.tp, size)

    def attention(self, sparse_n: int, group: bool, text_in: int = 0, answers: bool = False) -> None:
        """Of the video to itself, and to `text_in` text tensors (2: keys and values; 3: queries too)."""
        rows, cp = self.rows, self.cp
        own, count = self.width // self.tp, self.tokens
        text = rows * self.text * own
        if cp > 1 and sparse_n % cp == 0:
            count = len(Place(cp, 0, sparse_n, group).rows(self.tokens))
            if group:
                self.move("all_to_all", rows * count * self.width, cp, times=2)
            if text_in:
                self.move("all_gather", text, cp, times=text_in)
            if answers:
                self.move("reduce_scatter", cp * text, cp)
        elif cp > 1:
            count = self.share
            self.move("all_to_all", rows * count * own, cp, times=4)  # q, k, v, the result
            self.move("all_to_all", text, cp, times=text_in + answers)
        self.one_way("all_reduce", rows * count * self.width, self.tp)
        if answers:
            self.one_way("all_reduce", rows * self.text * self.width, self.tp)

    def layer(self, tokens: int) -> None:
        """A wide layer over so many tokens of each row: its sum, and that of its gradients."""
        self.one_way("all_reduce", self.rows * tokens * self.width, self.tp)
        self.backwards(self.rows * tokens * self.width)

    def output(self, channels: int) -> None:
        """The tokens of all ranks, with the channels of a patch."""
        self.one_way("all_gather", self.rows * self.share * channels, self.cp)
