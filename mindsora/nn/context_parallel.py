"""Context parallelism: what the ranks of a group exchange when each has a part of a clip's tokens.

`mindsora.parallel.shards` says which. Between two layers only attention exchanges anything, by one of two plans:
`SubSequences` where every rank can have whole sub-sequences of skiparse attention, else `Ulysses` (Jacobs et al. 2023,
arXiv 2309.14509). docs/parallel.md compares them in bytes.

Every exchange has its exact adjoint as gradient, and each rank's gradient of a parameter is its own tokens' part: the
sum over the group is the gradient.

Shapes in the margin: B batch, N visual tokens, S = ceil(N / R) of a rank, R ranks, L text tokens (padded to a multiple of
R), H heads, D channels of a head.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.kernels import forms
from mindsora.kernels.skiparse_attention import skiparse_attention
from mindsora.nn.rope import rope_tensors
from mindsora.parallel.collectives import AllGather, AllToAll, Gather, Group, ReduceScatter
from mindsora.parallel.shards import Place, Shards


class TokenShares(nn.Cell):
    """Cuts token streams into the ranks' shares, and puts them together again."""

    def __init__(self, group: Group):
        super().__init__()
        self.ranks, self.rank = group.size, group.rank
        self.whole = Gather(group, 1)

    def video(self, x: Tensor) -> Tensor:
        """Visual tokens (B, N, C) -> those of this rank (B, S, C)."""
        b, tokens, c = x.shape
        rows = -(-tokens // self.ranks)
        x = padded(x, rows * self.ranks).reshape(b, rows, self.ranks, c)
        return forms.narrow(x, 2, self.rank, 1).reshape(b, rows, c)

    def text_rows(self, length: int) -> int:
        """Text tokens of a rank."""
        return -(-length // self.ranks)

    def text(self, y: Tensor) -> Tensor:
        """Text tokens (B, L, C) -> those of this rank (B, ceil(L / R), C), side by side, padding last."""
        rows = self.text_rows(y.shape[1])
        return forms.narrow(padded(y, rows * self.ranks), 1, self.rank * rows, rows)

    def join(self, x: Tensor, tokens: int) -> Tensor:
        """The inverse of `video`: (B, S, C) of every rank -> (B, N, C) on all of them."""
        return in_order(self.whole(x), self.ranks, tokens)


def padded(x: Tensor, length: int) -> Tensor:
    """(B, N, ...) with zeros behind, (B, length, ...)."""
    missing = length - x.shape[1]
    return ops.concat((x, ops.zeros((x.shape[0], missing) + x.shape[2:], x.dtype)), 1) if missing else x


def in_order(x: Tensor, ranks: int, tokens: int) -> Tensor:
    """The ranks' rows one rank after the other (B, R S, ...) -> (B, N, ...) in token order."""
    b, rows, rest = x.shape[0], x.shape[1] // ranks, x.shape[2:]
    x = x.reshape(b, ranks, rows, -1).transpose(0, 2, 1, 3).reshape((b, rows * ranks) + rest)
    return x if tokens == rows * ranks else forms.narrow(x, 1, 0, tokens)


class Ulysses(nn.Cell):
    """Attention of H / R heads to all tokens on each rank: tokens and heads change places before and after it."""

    def __init__(self, group: Group, sparse_n: int, group_skip: bool):
        super().__init__()
        self.ranks, self.sparse_n, self.group_skip = group.size, sparse_n, group_skip
        self.place = Place(group.size, group.rank)
        self.to_heads, self.to_tokens = AllToAll(group, 2, 1), AllToAll(group, 1, 2)

    def attended(self, tokens: int) -> tuple[int, int, bool]:
        """Visual tokens, sub-sequences and kind of skip of a rank's own attention. tokens: N."""
        return tokens, self.sparse_n, self.group_skip

    def mask(self, video_mask: Tensor | None, batch: int, tokens: int) -> Tensor | None:
        """Real tokens (B, N) of the clip -> those of a rank's own attention."""
        return video_mask

    def enter(self, x: Tensor, rows: int) -> Tensor:
        return x

    def leave(self, x: Tensor, rows: int) -> Tensor:
        return x

    def construct(self, q, k, v, text_q, text_k, text_v, text_lengths, video_mask, segments, tokens):
        """As `skiparse_attention`, with rows of this rank. video_mask: (B, N) of the whole clip; tokens: N."""
        rows = q.shape[1]
        q = in_order(self.to_heads(q), self.ranks, tokens)  # (B, N, H / R, D)
        k = in_order(self.to_heads(k), self.ranks, tokens)
        v = in_order(self.to_heads(v), self.ranks, tokens)
        text_q = None if text_q is None else self.to_heads(text_q)  # (B, L, H / R, D)
        text_k = None if text_k is None else self.to_heads(text_k)
        text_v = None if text_v is None else self.to_heads(text_v)
        x, y = skiparse_attention(
            q, k, v, text_q, text_k, text_v,
            sparse_n=self.sparse_n, group=self.group_skip,
            text_lengths=text_lengths, video_mask=video_mask, segments=segments,
        )  # fmt: skip
        b, _, heads, dim = x.shape
        x = (
            padded(x, rows * self.ranks).reshape(b, rows, self.ranks, -1).transpose(0, 2, 1, 3)
        )  # one rank after the other
        x = self.to_tokens(x.reshape(b, rows * self.ranks, heads, dim))  # (B, S, H, D)
        return x, None if text_q is None else self.to_tokens(y)


class SubSequences(nn.Cell):
    """Attention of all heads in n / R whole sub-sequences on each rank.

    With single skip a rank's share of the stream is that. With group skip the ranks exchange the attention's input once
    and its output once, before and after the projections, where Ulysses exchanges q, k, v and the output.
    """

    def __init__(self, group: Group, sparse_n: int, group_skip: bool):
        super().__init__()
        self.ranks, self.group_skip = group.size, group_skip
        self.parts = sparse_n // group.size  # sub-sequences of a rank
        self.place = Place(group.size, group.rank, sparse_n, group_skip)
        self.move = AllToAll(group, 2, 2)
        self.all_text, self.sum_text = AllGather(group, 1), ReduceScatter(group, 1)

    def attended(self, tokens: int) -> tuple[int, int, bool]:
        """As of Ulysses."""
        return len(self.place.rows(tokens)), self.parts, False

    def mask(self, video_mask: Tensor | None, batch: int, tokens: int) -> Tensor | None:
        """(B, N) -> (B, rows). Without a mask only group skip has padding, where n^2 does not divide N."""
        if video_mask is None:
            return None if _is_full(tokens, self.place) else _real(tokens, self.place).broadcast_to((batch, -1))
        return forms.take(video_mask, _ids(tokens, self.place), 1) * _real(tokens, self.place)

    def enter(self, x: Tensor, rows: int) -> Tensor:
        """A share of the stream (B, S, C) -> the rank's sub-sequences (B, rows, C), dealt out as by single skip."""
        if not self.group_skip:
            return x if x.shape[1] == rows else forms.narrow(x, 1, 0, rows)
        b, _, c = x.shape
        x = padded(x, rows).reshape(b, -1, self.ranks, self.parts * c)  # (a, j), rank, (u, c)
        x = self.move(x).reshape(b, -1, self.parts, self.ranks, self.parts, c)  # a, j, r, u
        return x.transpose(0, 1, 4, 3, 2, 5).reshape(b, rows, c)  # a, u, r, j

    def leave(self, x: Tensor, rows: int) -> Tensor:
        """The inverse: (B, ..., C) -> (B, S, C). rows: S."""
        if not self.group_skip:
            return padded(x, rows)
        b, count, c = x.shape
        x = x.reshape(b, -1, self.parts, self.ranks, self.parts, c).transpose(0, 1, 4, 3, 2, 5)  # a, j, r, u
        x = self.move(x.reshape(b, -1, self.ranks, self.parts * c)).reshape(b, count, c)
        return x if count == rows else forms.narrow(x, 1, 0, rows)

    def construct(self, q, k, v, text_q, text_k, text_v, text_lengths, video_mask, segments, tokens):
        """As `skiparse_attention`, with rows of this rank. video_mask: (B, rows)."""
        if text_k is not None:
            text_k, text_v = self.all_text(text_k), self.all_text(text_v)  # (B, L, H, D)
        if text_q is not None:
            text_q = self.all_text(text_q)
        x, y = skiparse_attention(
            q, k, v, text_q, text_k, text_v,
            sparse_n=self.parts, group=False,
            text_lengths=text_lengths, video_mask=video_mask, segments=segments,
        )  # fmt: skip
        return x, None if text_q is None else self.sum_text(y * (1 / self.ranks))  # the mean over all n


@ops.constexpr
def _is_full(tokens: int, place: tuple) -> bool:
    return bool((Place(*place).rows(tokens) >= 0).all())


@ops.constexpr
def _ids(tokens: int, place: tuple) -> Tensor:
    """The token of each row, (rows,); of padding, the first."""
    return Tensor(Place(*place).rows(tokens).clip(0).astype(np.int32))


@ops.constexpr
def _real(tokens: int, place: tuple) -> Tensor:
    """1 for rows with a token, 0 for padding, (1, rows)."""
    return Tensor((Place(*place).rows(tokens) >= 0).astype(np.float32)[None])


def exchange(group: Group, sparse_n: int, group_skip: bool) -> nn.Cell:
    """The plan of one kind of attention."""
    return (SubSequences if sparse_n % group.size == 0 else Ulysses)(group, sparse_n, group_skip)


class SharesTokens(nn.Cell):
    """A denoiser whose tokens the ranks of a group may share. It has `config.interpolation_scale` and `rope_split`.

    Attributes:
        layouts: (n, group skip) of each kind of attention in the model.
        shared: the exchanges of each, or None for each where this process has all tokens.
        shares: cuts and joins the streams, or None.
    """

    def share_tokens(self, shards: Shards | None, layouts: tuple[tuple[int, bool], ...]) -> None:
        """Set the attributes."""
        alone = shards is None or shards.cp.size == 1
        self.layouts = layouts
        self.shared = (None,) * len(layouts)
        self.shares = None if alone else TokenShares(shards.cp)
        if not alone:
            self.shared = nn.CellList([exchange(shards.cp, n, group) for n, group in layouts])

    def ropes(self, grid: tuple[int, int, int], dtype=ms.float32) -> tuple[tuple[Tensor, Tensor], ...]:
        """cos and sin of the rows that each kind of attention takes."""
        found = ()
        for shared in self.shared:
            place = None if shared is None else shared.place
            found = found + (rope_tensors(grid, self.rope_split, self.config.interpolation_scale, dtype, place),)
        return found

    def masks(self, video_mask: Tensor | None, batch: int, tokens: int) -> tuple[Tensor | None, ...]:
        """The mask of each kind of attention."""
        found = ()
        for shared in self.shared:
            found = found + (video_mask if shared is None else shared.mask(video_mask, batch, tokens),)
        return found
