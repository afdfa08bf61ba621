"""T5 v1.1 encoder (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202), and its kin mT5 and UMT5.

Dropout is left out: Open-Sora Plan runs its text encoders frozen and without it.
"""

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindsora.errors import InputError, shown
from mindsora.kernels import forms
from mindsora.kernels.choice import choose
from mindsora.kernels.gelu import gelu_tanh
from mindsora.models.pretrained import Pretrained
from mindsora.models.upstream_keys import NOT_ARCHITECTURE, read_config, write_config
from mindsora.nn.biased_attention import MASKED, biased_attention
from mindsora.nn.compile_once import compile_once
from mindsora.nn.layers import Embedding, Linear, RMSNorm, row_linear
from mindsora.parallel.shards import Shards, TensorParallel, ranks_of, tensor_parallel
from mindsora.ranges import Epsilon, Heads, HeadWidth, Layers, Rows, Width, check_fields

_IRRELEVANT = (NOT_ARCHITECTURE - {"model_type"}) | {
    "feed_forward_proj", "dense_act_fn", "is_gated_act", "n_positions", "num_decoder_layers", "scalable_attention",
    "scale_decoder_outputs",
}  # fmt: skip


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5-family encoder, under upstream's names.

    Attributes:
        model_type: t5, mt5 or umt5; umt5 has a separate position bias in every block, the others share one.
        vocab_size: rows of the embedding table.
        d_model: width of the residual stream.
        d_kv: width of one head; num_heads * d_kv need not be d_model.
        d_ff: width of the gated feed-forward layer.
    """

    vocab_size: Rows
    d_model: Width
    d_kv: HeadWidth
    d_ff: Width
    num_layers: Layers
    num_heads: Heads
    model_type: str = "t5"
    relative_attention_num_buckets: Width = 32
    relative_attention_max_distance: Rows = 128
    layer_norm_epsilon: Epsilon = 1e-6

    def __post_init__(self):
        check_fields(self)
        if self.model_type not in ("t5", "mt5", "umt5"):
            raise InputError(f"model_type = {shown(self.model_type)}: must be t5, mt5 or umt5")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 4 or distance <= buckets // 4:
            raise InputError(
                f"relative_attention_num_buckets = {buckets}, relative_attention_max_distance = {distance}: "
                "the buckets must divide by 4 and the distance exceed a quarter of them (32 and 128 upstream)"
            )

    @classmethod
    def from_upstream(cls, config: dict) -> "T5Config":
        """Read a T5, mT5 or UMT5 `config.json`; an unknown key, or the ungated T5 v1.0, is an InputError."""
        activation = config.get("feed_forward_proj", "gated-gelu")
        if activation != "gated-gelu":
            raise InputError(
                f"feed_forward_proj = {shown(activation)}: only gated-gelu (T5 v1.1, mT5, UMT5) is supported"
            )
        return read_config(cls, config, "T5", ignored=_IRRELEVANT)

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        return write_config(self) | {"feed_forward_proj": "gated-gelu"}


class T5Encoder(Pretrained, nn.Cell):
    """Token ids to a sequence of text features.

    Upstream: T5EncoderModel, MT5EncoderModel and UMT5EncoderModel of transformers.
    """

    # The product with wo exceeds float16's range in the released XL and XXL weights; bfloat16 can represent it.
    keep_in_fp32_under_fp16 = (r"blocks\.\d+\.feed_forward\.wo\.weight",)

    def __init__(self, config: T5Config, shards: Shards | None = None):
        super().__init__()
        self.config = config
        tp = tensor_parallel(shards)
        _check_ranks(config, ranks_of(tp))
        self.copy, self.columns = (None, None) if tp is None else (tp.copy, tp.gather)
        self.own_heads = None if tp is None else (shards.tp.rank, config.num_heads // tp.ranks)
        self.max_distance = config.relative_attention_max_distance
        buckets = config.relative_attention_num_buckets
        # The bucket is constant from max_distance on, so this table serves every length.
        distances = np.arange(-self.max_distance, self.max_distance + 1)
        self.buckets = Tensor(relative_position_bucket(distances, buckets, self.max_distance))
        self.shared = Embedding(config.vocab_size, config.d_model // ranks_of(tp), std=1.0)
        tables = config.num_layers if config.model_type == "umt5" else 1
        std = config.d_model**-0.5
        self.relative_bias = nn.CellList([Embedding(buckets, config.num_heads, std) for _ in range(tables)])
        self.blocks = nn.CellList(compile_once(T5Block(config, tp) for _ in range(config.num_layers)))
        self.final_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    @classmethod
    def from_upstream(cls, config: dict, shards: Shards | None = None) -> "T5Encoder":
        """Build from upstream's `config.json`."""
        return cls(T5Config.from_upstream(config), shards)

    def construct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden state.

        Args:
            input_ids: (B, L) int32.
            attention_mask: (B, L), 1 for tokens, 0 for padding; None: no padding.

        Returns:
            (B, L, d_model) in the dtype of the weights, defined at padded positions too.
        """
        return self.final_norm(self.hidden_states(input_ids, attention_mask)[-1])

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The embedding and the output of every block, none of them normalised: num_layers + 1 of (B, L, d_model)."""
        x = self.embed(input_ids)
        mask = Tensor(0.0, ms.float32)
        if attention_mask is not None:
            mask = (1 - attention_mask.astype(ms.float32)).expand_dims(1).expand_dims(1) * MASKED  # (B, 1, 1, L)
        bias = mask
        states = (x,)
        for i, block in enumerate(self.blocks):
            if i < len(self.relative_bias):  # the first block's serves the rest, except in UMT5
                bias = self.position_bias(i, input_ids.shape[1]) + mask  # (1 or B, H, L, L)
            x = block(x, bias)  # (B, L, D)
            states = states + (x,)
        return states

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D). Each tensor-parallel rank looks up some of the channels."""
        if self.columns is None:
            return self.shared(ids)
        return self.columns(self.shared(ids.reshape(-1))).reshape(ids.shape + (-1,))

    def position_bias(self, i: int, length: int) -> Tensor:
        """Bias table i laid out over query and key positions: (1, H, L, L) float32."""
        positions = ops.arange(length)
        distance = (positions.expand_dims(0) - positions.expand_dims(1)).clip(-self.max_distance, self.max_distance)
        bucket = forms.take(self.buckets, (distance + self.max_distance).reshape(-1))  # (L L,)
        bias = self.relative_bias[i](bucket).astype(ms.float32)  # (L L, H)
        if self.copy is not None:
            rank, heads = self.own_heads
            bias = forms.narrow(self.copy(bias), 1, rank * heads, heads)
        return bias.transpose(1, 0).reshape(1, -1, length, length)


class T5Block(nn.Cell):
    """Attention and gated feed-forward, each with a norm before it and a residual sum after it."""

    def __init__(self, config: T5Config, tp: TensorParallel | None = None):
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = T5Attention(config, tp)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = T5FeedForward(config, tp)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        x = clamp_float16(x + self.attention(self.attention_norm(x), bias))
        return clamp_float16(x + self.feed_forward(self.feed_forward_norm(x)))  # float32 where wo is


class T5Attention(nn.Cell):
    """Attention without bias vectors; its scores are not divided by sqrt(d_kv), the initialisation accounts for it."""

    def __init__(self, config: T5Config, tp: TensorParallel | None = None):
        super().__init__()
        self.heads = config.num_heads // ranks_of(tp)
        self.copy = None if tp is None else tp.copy
        dim, inner = config.d_model, self.heads * config.d_kv
        self.q = Linear(dim, inner, bias=False, std=(dim * config.d_kv) ** -0.5)
        self.k = Linear(dim, inner, bias=False, std=dim**-0.5)
        self.v = Linear(dim, inner, bias=False, std=dim**-0.5)
        self.o = row_linear(inner, dim, tp, bias=False, std=(config.num_heads * config.d_kv) ** -0.5)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        if self.copy is not None:
            x = self.copy(x)
        return self.o(biased_attention(self.q(x), self.k(x), self.v(x), bias, self.heads))


class T5FeedForward(nn.Cell):
    """wo(gelu(wi_0 x) * wi_1 x), with the tanh form of gelu ("gated-gelu" upstream)."""

    def __init__(self, config: T5Config, tp: TensorParallel | None = None):
        super().__init__()
        own = config.d_ff // ranks_of(tp)
        self.copy = None if tp is None else tp.copy
        self.wi_0 = Linear(config.d_model, own, bias=False, std=config.d_model**-0.5)
        self.wi_1 = Linear(config.d_model, own, bias=False, std=config.d_model**-0.5)
        self.wo = row_linear(own, config.d_model, tp, bias=False, std=config.d_ff**-0.5)
        choose("gelu")  # compiled here if needed, not during the first call

    def construct(self, x: Tensor) -> Tensor:
        if self.copy is not None:
            x = self.copy(x)
        h = gelu_tanh(self.wi_0(x), self.wi_1(x))  # (B, L, F)
        return self.wo(h.astype(self.wo.weight.dtype))


def _check_ranks(config: T5Config, ranks: int) -> None:
    """InputError: tensor-parallel ranks that do not divide a width."""
    widths = {"num_heads": config.num_heads, "d_ff": config.d_ff, "d_model": config.d_model}
    for name, width in widths.items():
        if width % ranks:
            legal = max(n for n in range(1, ranks) if all(value % n == 0 for value in widths.values()))
            raise InputError(
                f"tp={ranks}: {name} {width} of the text encoder must divide by it; nearest legal: tp={legal}"
            )


def clamp_float16(x: Tensor) -> Tensor:
    """Keep a float16 residual stream finite: after an overflow the bound is 1000 below the largest float16."""
    if x.dtype != ms.float16:
        return x
    bound = ops.where(ops.isinf(x).any(), 65504.0 - 1000.0, 65504.0).astype(ms.float16)
    return ops.maximum(ops.minimum(x, bound), -bound)


def relative_position_bucket(relative: np.ndarray, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each signed distance (key position minus query position), int32.

    Half of the buckets serve keys to the right. In each half, the lower half has one bucket per distance, the upper
    half grows logarithmically up to max_distance.
    """
    half, exact = num_buckets // 2, num_buckets // 4
    distance = np.abs(relative)
    # float32 logarithm, truncated: in float64 some distances fall on the other side of a bucket's edge.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + ratio.astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, logarithmic) + np.where(relative > 0, half, 0)).astype(np.int32)
