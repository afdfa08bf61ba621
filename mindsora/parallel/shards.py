"""How the ranks of a group share one clip: tokens by context parallelism, heads and widths by tensor parallelism.

N visual tokens are dealt out to R ranks one by one: rank r has the tokens r, R + r, 2R + r, ... of (t, y, x) order, and
S = ceil(N / R) rows, of which the last may be padding. Skiparse deals tokens out to its n sub-sequences in the same way
(single skip), so that for any n that R divides every rank has whole sub-sequences without any exchange.
"""

from typing import NamedTuple

import numpy as np

from mindsora.errors import InputError
from mindsora.parallel.collectives import Copy, Gather, Group, Reduce


class Shards(NamedTuple):
    """The groups of ranks that share a model.

    cp: context parallel: each rank has a part of the tokens.
    tp: tensor parallel: each rank has a part of the heads and of the feed-forward width.
    """

    cp: Group
    tp: Group

    def check_heads(self, name: str, heads: int) -> None:
        """Raise InputError unless tensor-parallel ranks divide the heads, and context-parallel ranks each part of them.

        Args:
            name: of the number of heads in the configuration.
        """
        ranks = self.tp.size * self.cp.size
        if heads % ranks:
            legal = max(size for size in range(1, ranks) if heads % size == 0)
            raise InputError(
                f"tp={self.tp.size},cp={self.cp.size}: {name} {heads} must divide by tp x cp = {ranks}; nearest legal "
                f"product: {legal}"
            )


class Place(NamedTuple):
    """The visual tokens of one rank, in the layout that one kind of attention takes.

    ranks, rank: size of the context-parallel group, own position in it.
    sparse_n: sub-sequences whose tokens stay together; 1: the layout of the stream, which every rank keeps.
    group: they are those of group skip; see `mindsora.kernels.skiparse_permute.reference`.
    """

    ranks: int
    rank: int
    sparse_n: int = 1
    group: bool = False

    def rows(self, tokens: int) -> np.ndarray:
        """The token of each row of this rank, or -1 for padding.

        Args:
            tokens: N of the clip.
        """
        ranks, rank, n = self.ranks, self.rank, self.sparse_n
        if (
            self.group
        ):  # token a n^2 + (R j + rank) n + b is row (a, b, j): its sub-sequence R j + rank at place a n + b
            a, b, j = np.ogrid[: -(-tokens // n**2), :n, : n // ranks]
            rows = (a * n**2 + (ranks * j + rank) * n + b).reshape(-1)
        elif n > 1:  # whole sub-sequences by single skip: what the stream has, without its padding
            rows = np.arange(rank, tokens, ranks)
        else:
            rows = np.arange(-(-tokens // ranks)) * ranks + rank
        return np.where(rows < tokens, rows, -1)


class TensorParallel:
    """The exchanges of a tensor-parallel group (Shoeybi et al. 2019, Megatron-LM). A model makes one for all its layers.

    Attributes:
        ranks: size of the group.
        copy: in front of what each rank computes a part of: its gradients sum over the ranks.
        reduce: the sum of the ranks' values.
        gather: the ranks' columns (B, C) side by side.
    """

    def __init__(self, group: Group):
        self.ranks = group.size
        self.copy, self.reduce, self.gather = Copy(group), Reduce(group), Gather(group, 1)


def tensor_parallel(shards: Shards | None) -> TensorParallel | None:
    """The exchanges of the tensor-parallel group; None where one rank has every layer whole."""
    return None if shards is None or shards.tp.size == 1 else TensorParallel(shards.tp)


def ranks_of(tp: TensorParallel | None) -> int:
    """How many ranks share a layer."""
    return 1 if tp is None else tp.ranks
