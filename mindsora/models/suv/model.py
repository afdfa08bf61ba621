"""SUV, the sparse U-shaped MMDiT of Open-Sora Plan v1.5.0 (upstream class SparseUMMDiT).

Text and video are two token streams that meet in every block's attention. Stages in the middle of the network attend
sparsely (skiparse), and the second half receives the first half's streams through skip connections.

Shapes in the margin: B batch, N = T*h*w visual tokens, L text tokens, H heads, D head_dim, C = H*D channels,
E timestep_embed_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Identity, initializer

from mindsora.errors import InputError
from mindsora.kernels import forms
from mindsora.kernels.ada_norm_modulate import ada_norm_modulate, gated_residual
from mindsora.kernels.choice import choose
from mindsora.kernels.qk_norm_rope import qk_norm_rope
from mindsora.kernels.skiparse_attention import skiparse_attention
from mindsora.kernels.skiparse_attention.ascend import segment_ends
from mindsora.models.pretrained import Pretrained
from mindsora.models.upstream_keys import read_config, write_config
from mindsora.nn.compile_once import compile_once
from mindsora.nn.context_parallel import SharesTokens
from mindsora.nn.layers import FeedForward, LayerNorm, Linear, RMSNorm, row_linear
from mindsora.nn.modulation import STD, Modulation
from mindsora.nn.patches import PatchEmbed, pool_mask, unpatchify
from mindsora.nn.rope import split_v1_5
from mindsora.nn.timestep import MLP, Sinusoid
from mindsora.parallel.shards import Shards, TensorParallel, ranks_of, tensor_parallel
from mindsora.ranges import Heads, HeadWidth, Layers, Scale, Stride, Width, check_fields

EPS = 1e-6
FP16_MAX = 65504.0

# Upstream configuration keys with one value in every released model, and those without effect on the forward pass
# (norm_elementwise_affine differs between two released files; every LayerNorm has weight and bias all the same).
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_cls": "layer_norm",
    "norm_eps": EPS,
    "patch_size_t": 1,
    "skip_connection_zero_init": True,
    "sparse1d": True,
}
_IRRELEVANT = {"dropout", "model", "norm_elementwise_affine", "text_lengths", "weights_layout_tp"}


@dataclass(frozen=True)
class SUVConfig:
    """Shape of the network; the field names are upstream's.

    Attributes:
        num_layers: blocks per stage, even; the number of stages is odd, the middle one turns the U.
        sparse_n: per stage, number of sub-sequences n of its skiparse attention (1: full attention).
        skip_connection: whether the second half receives the first half's streams. Without it, and with sparse_n 1
            everywhere, it is the dense model of the first image stages.
        last_block_text: keep the text half of the very last block. Its result is never read; checkpoints written
            under tensor parallelism hold its six tensors.
    """

    num_layers: tuple[Layers, ...] = (2, 4, 6, 8, 6, 4, 2)
    sparse_n: tuple[Stride, ...] = (1, 2, 4, 8, 4, 2, 1)
    num_heads: Heads = 24
    head_dim: HeadWidth = 128
    in_channels: Width = 32
    out_channels: Width = 32
    timestep_embed_dim: Width = 1024
    caption_channels: Width = 2048
    pooled_projection_dim: Width = 1280
    patch_size: Stride = 2
    double_ff: bool = True
    skip_connection: bool = True
    interpolation_scale: tuple[Scale, Scale, Scale] = (1.0, 1.0, 1.0)  # of t, y, x positions
    last_block_text: bool = False

    def __post_init__(self):
        check_fields(self)
        for name in ("num_layers", "sparse_n", "interpolation_scale"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists from JSON or YAML
        stages = len(self.num_layers)
        if stages != len(self.sparse_n) or stages % 2 == 0 or stages < 3:
            raise InputError(
                f"num_layers {self.num_layers} and sparse_n {self.sparse_n} must have one entry per stage "
                f"and an odd number of stages, at least 3"
            )
        if odd := [n for n in self.num_layers if n < 2 or n % 2]:
            raise InputError(f"num_layers has {odd[0]}; blocks alternate single and group skip: use {odd[0] + 1}")
        if self.head_dim % 16:
            nearest = -(-self.head_dim // 16) * 16
            raise InputError(f"head_dim {self.head_dim} must be divisible by 16; nearest: {nearest}")
        if self.timestep_embed_dim % 2:
            raise InputError(f"timestep_embed_dim {self.timestep_embed_dim} must be even")

    @property
    def dim(self) -> int:
        return self.num_heads * self.head_dim

    @classmethod
    def from_upstream(cls, config: Mapping) -> "SUVConfig":
        """From upstream's JSON keys.

        Raises:
            InputError: an unknown key, or a key that asks for a variant that does not exist here.
        """
        config = dict(config)
        scale = tuple(config.pop(f"interpolation_scale_{axis}", 1.0) for axis in "thw")
        return read_config(cls, config | {"interpolation_scale": scale}, "SUV", _FIXED, _IRRELEVANT)

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        return write_config(self) | _FIXED


class TimeTextEmbed(nn.Cell):
    """The conditioning vector temb, always float32: diffusion time and pooled text. -> (B, E)."""

    def __init__(self, dim: int, pooled_dim: int):
        super().__init__()
        self.sinusoid = Sinusoid(dim)
        self.timestep_embedder = MLP(dim, dim)
        self.text_embedder = MLP(pooled_dim, dim)

    def construct(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        time = self.sinusoid(timestep).astype(pooled.dtype)
        return (self.timestep_embedder(time) + self.text_embedder(pooled)).astype(ms.float32)


def sanitise(x: Tensor) -> Tensor:
    """Replace the overflow in a float16 stream: NaN -> 0, +-inf -> the largest float16."""
    return forms.finite(x, FP16_MAX)


class AdaNorm(nn.Cell):
    """LayerNorm of both streams, shifted and scaled by the conditioning; the gates are returned to the caller.

    Without `text` (double_ff = False) the text stream passes unchanged; its chunks are still computed.
    """

    def __init__(self, dim: int, cond_dim: int, text: bool = True, tp: TensorParallel | None = None):
        super().__init__()
        self.linear = Modulation(cond_dim, 6 * dim, tp)
        self.norm = LayerNorm(dim, EPS)
        self.norm_enc = LayerNorm(dim, EPS) if text else None

    def construct(self, x: Tensor, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Both triples serve this one sub-layer: visual first, then text (not attention, then feed-forward).
        shift, scale, gate, shift_enc, scale_enc, gate_enc = forms.chunk(self.linear(c), 6, -1)  # (B, 1, C)
        x = ada_norm_modulate(x, shift, scale, self.norm.weight, self.norm.bias, eps=EPS)
        if self.norm_enc is not None:
            y = ada_norm_modulate(y, shift_enc, scale_enc, self.norm_enc.weight, self.norm_enc.bias, eps=EPS)
        return x, y, gate, gate_enc


class JointAttention(nn.Cell):
    """Text and video attend together. Without `text_output` text is only attended to, and its result is None.

    Args:
        tp: ranks that share the heads.
        shared: ranks that share the tokens, see `mindsora.nn.context_parallel`.
    """

    def __init__(
        self,
        config: SUVConfig,
        sparse_n: int,
        group: bool,
        text_output: bool,
        tp: TensorParallel | None = None,
        shared: nn.Cell | None = None,
    ):
        super().__init__()
        dim, self.heads, self.head_dim = config.dim, config.num_heads // ranks_of(tp), config.head_dim
        own = self.heads * self.head_dim  # channels of this rank's heads
        self.sparse_n, self.group, self.text_output = sparse_n, group, text_output
        self.copy, self.shared = None if tp is None else tp.copy, shared
        self.to_q, self.to_k, self.to_v = (Linear(dim, own, std=STD) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(dim, own, std=STD) for _ in range(3))
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (RMSNorm(self.head_dim, EPS) for _ in range(4))
        self.rope_split = split_v1_5(self.head_dim)
        self.to_out = row_linear(own, dim, tp, std=STD)
        self.to_add_out = row_linear(own, dim, tp, std=STD) if text_output else None

    def construct(self, x, y, rope, text_lengths, video_mask, segments=None, all_tokens=None):
        share = x.shape[1]
        if self.copy is not None:
            x, y = self.copy(x), self.copy(y)
        if self.shared is not None:
            x = self.shared.enter(x, rope[0].shape[1])
        b, tokens, length = x.shape[0], x.shape[1], y.shape[1]
        visual, words = (b, tokens, self.heads, self.head_dim), (b, length, self.heads, self.head_dim)
        q = self.norm_rope(self.to_q(x).reshape(visual), self.norm_q.weight, rope)  # (B, N, H, D)
        k = self.norm_rope(self.to_k(x).reshape(visual), self.norm_k.weight, rope)
        v = self.to_v(x).reshape(visual)
        text_q = None
        if self.text_output:
            text_q = self.norm_rope(self.add_q_proj(y).reshape(words), self.norm_added_q.weight)  # (B, L, H, D)
        text_k = self.norm_rope(self.add_k_proj(y).reshape(words), self.norm_added_k.weight)
        text_v = self.add_v_proj(y).reshape(words)
        if self.shared is None:
            x, y = skiparse_attention(
                q,
                k,
                v,
                text_q,
                text_k,
                text_v,
                sparse_n=self.sparse_n,
                group=self.group,
                text_lengths=text_lengths,
                video_mask=video_mask,
                segments=segments,
            )
        else:
            x, y = self.shared(q, k, v, text_q, text_k, text_v, text_lengths, video_mask, segments, all_tokens)
        x = self.to_out(x.reshape(b, tokens, -1))
        if self.shared is not None:
            x = self.shared.leave(x, share)
        if self.text_output:
            y = self.to_add_out(y.reshape(b, length, -1))
        return x, y

    def norm_rope(self, x, weight, rope=None):
        if self.copy is not None:
            # Each rank scales other heads with it. In two steps: in graphs of MindSpore 2.10 blocks that share a graph
            # would take one block's parameter for all, if it went into a Cell with a bprop as it is.
            weight = self.copy(weight.expand_dims(0)).reshape(-1)
        return qk_norm_rope(x, weight, rope=rope, norm="rms", split=self.rope_split, eps=EPS)  # text has no position


class Block(nn.Cell):
    """Attention, then feed-forward, on both streams. The very last block (text_output = False) leaves text alone."""

    def __init__(
        self,
        config: SUVConfig,
        sparse_n: int,
        group: bool,
        text_output: bool,
        tp: TensorParallel | None = None,
        shared: nn.Cell | None = None,
    ):
        super().__init__()
        dim, cond_dim = config.dim, config.timestep_embed_dim
        own_text_ff = config.double_ff and text_output
        self.text_output = text_output
        self.norm1 = AdaNorm(dim, cond_dim, tp=tp)
        self.attn1 = JointAttention(config, sparse_n, group, text_output, tp, shared)
        self.norm2 = AdaNorm(dim, cond_dim, own_text_ff, tp)
        self.ff = FeedForward(dim, bias=False, std=STD, tp=tp)
        self.ff_enc = FeedForward(dim, bias=False, std=STD, tp=tp) if own_text_ff else None

    def construct(self, x, y, c, rope, text_lengths, video_mask, segments=None, all_tokens=None):
        if x.dtype == ms.float16 and not self.training:
            x, y = sanitise(x), sanitise(y)
        x_hat, y_hat, gate, gate_enc = self.norm1(x, y, c)
        x_hat, y_hat = self.attn1(x_hat, y_hat, rope, text_lengths, video_mask, segments, all_tokens)
        x = gated_residual(x, gate, x_hat)  # (B, N, C)
        if self.text_output:
            y = gated_residual(y, gate_enc, y_hat)  # (B, L, C)

        if x.dtype == ms.float16 and not self.training:
            x, y = sanitise(x), sanitise(y)
        x_hat, y_hat, gate, gate_enc = self.norm2(x, y, c)
        x = gated_residual(x, gate, self.ff(x_hat))
        if self.text_output:
            y_hat = self.ff(y_hat) if self.ff_enc is None else self.ff_enc(y_hat)
            y = gated_residual(y, gate_enc, y_hat)
        return x, y


class OutputNorm(nn.Cell):
    """LayerNorm modulated by (shift, scale) of the conditioning."""

    def __init__(self, dim: int, cond_dim: int, tp: TensorParallel | None = None):
        super().__init__()
        self.linear = Modulation(cond_dim, 2 * dim, tp)
        self.norm = LayerNorm(dim, EPS)

    def construct(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = forms.chunk(self.linear(c), 2, -1)
        return ada_norm_modulate(x, shift, scale, self.norm.weight, self.norm.bias, eps=EPS)


class SkipLinear(Linear):
    """Merge a stream with its skip: (B, S, C), (B, S, C) -> (B, S, C). Initially the identity on the current stream."""

    def __init__(self, dim: int):
        super().__init__(2 * dim, dim)
        self.weight = Parameter(initializer(Identity(), (dim, 2 * dim)))  # [I | 0]

    def construct(self, x: Tensor, skip: Tensor) -> Tensor:
        return super().construct(ops.concat((x, skip), -1))


class SUV(Pretrained, SharesTokens):
    """Predicts the velocity (noise - clean) of a noisy latent video.

    Args:
        config: shape of the network.
        shards: the groups of ranks that share it (docs/parallel.md); None: this process has all of it.

    Raises:
        InputError: groups that do not divide the heads.
    """

    def __init__(self, config: SUVConfig, shards: Shards | None = None):
        super().__init__()
        self.config = config
        if shards is not None:
            shards.check_heads("num_heads", config.num_heads)
        for operator in ("ada_norm_modulate", "qk_norm_rope", "skiparse_attention"):
            choose(operator)  # compiled here if needed, not during the first call
        dim, cond_dim, stages = config.dim, config.timestep_embed_dim, len(config.num_layers)
        self.middle = stages // 2
        # Blocks with the same n and the same kind of skip lay out their rows alike; n = 1 knows no skip.
        kinds = [[(n, n > 1 and b % 2 == 1) for b in range(m)] for m, n in zip(config.num_layers, config.sparse_n)]
        self.share_tokens(shards, tuple(dict.fromkeys(kind for stage in kinds for kind in stage)))
        self.layout_of = tuple(tuple(map(self.layouts.index, stage)) for stage in kinds)
        tp = tensor_parallel(shards)
        self.copy = None if tp is None else tp.copy
        self.rope_split = split_v1_5(config.head_dim)
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.time_text_embed = TimeTextEmbed(cond_dim, config.pooled_projection_dim)
        self.caption_projection = Linear(config.caption_channels, dim)
        last = (stages - 1, config.num_layers[-1] - 1)
        self.transformer_blocks = nn.CellList(
            [
                nn.CellList(
                    [
                        Block(
                            config,
                            sparse_n,
                            group=b % 2 == 1,
                            text_output=(s, b) != last or config.last_block_text,
                            tp=tp,
                            shared=self.shared[self.layout_of[s][b]],
                        )
                        for b in range(blocks)
                    ]
                )
                for s, (blocks, sparse_n) in enumerate(zip(config.num_layers, config.sparse_n))
            ]
        )
        compile_once(block for stage in self.transformer_blocks for block in stage)
        skips = self.middle if config.skip_connection else 0
        self.skip_norm_linear = nn.CellList([SkipLinear(dim) for _ in range(skips)])
        self.skip_norm_linear_enc = nn.CellList([SkipLinear(dim) for _ in range(skips)])
        self.norm_final = LayerNorm(dim, EPS)
        self.norm_out = OutputNorm(dim, cond_dim, tp)
        self.proj_out = Linear(dim, config.patch_size**2 * config.out_channels)

    @classmethod
    def from_upstream(cls, config: Mapping, shards: Shards | None = None) -> "SUV":
        """Build from upstream's JSON configuration."""
        return cls(SUVConfig.from_upstream(config), shards)

    def segments(self, shape: Sequence[int], text_lengths: Sequence[int], text: int) -> tuple[tuple[int, ...], ...]:
        """Inputs of `construct` that follow from lengths known to the host: CANN's attention takes them from there.

        Args:
            shape: of the latents, (..., T, H, W).
            text_lengths: real text tokens of each row.
            text: L.

        Returns:
            For each layout of rows the ends of its segments, mutable: other lengths compile no other graph.
        """
        t, height, width = shape[-3:]
        tokens = t * (height // self.config.patch_size) * (width // self.config.patch_size)
        attended = [(tokens, *layout) for layout in self.layouts]
        if self.shares is not None:
            attended = [shared.attended(tokens) for shared in self.shared]
            text = self.shares.text_rows(text) * self.shares.ranks
        # Dynamic, because MindSpore 2.10 puts the numbers of other mutable tuples on the device and copies them back.
        return tuple(
            ms.mutable(segment_ends(text_lengths, tokens, text, n, group), dynamic_len=True)
            for tokens, n, group in attended
        )

    def construct(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        *segments: tuple[int, ...],
    ) -> Tensor:
        """One evaluation of the velocity.

        Args:
            hidden_states: noisy latents (B, c, T, H, W).
            timestep: (B,) 1000 * sigma, fractional values allowed.
            encoder_hidden_states: T5 states (B, 1, L, caption_channels).
            pooled_projections: CLIP's pooled projection (B, 1, pooled_projection_dim).
            attention_mask: (B, T, H, W), non-zero for real latents; None when all are. A mask takes a slower path.
            encoder_attention_mask: (B, 1, L) or (B, L), 1 for real text tokens. They must come first, as tokenisers
                put them: only their number is used. None when all are.
            segments: what `segments` makes of that number and the shapes, or nothing: then CANN's attention reads it
                back from the device. Other implementations do not look at them.

        Returns:
            Velocity (B, c_out, T, p * (H // p), p * (W // p)) in the model's dtype.
        """
        dtype = self.caption_projection.weight.dtype
        p = self.config.patch_size
        b, _, t, height, width = hidden_states.shape
        grid = (t, height // p, width // p)
        x = self.patch_embed(hidden_states.astype(dtype))  # (B, N, C)
        y = self.caption_projection(encoder_hidden_states.astype(dtype).reshape(b, -1, encoder_hidden_states.shape[-1]))
        temb = self.time_text_embed(timestep, pooled_projections.astype(dtype).reshape(b, -1))
        c = ops.silu(temb)  # (B, E) float32
        if self.copy is not None:
            c = self.copy(c)
        text_lengths, video_mask = None, None
        if encoder_attention_mask is not None:
            text_lengths = encoder_attention_mask.reshape(b, -1).astype(ms.int32).sum(-1)
        if attention_mask is not None:
            video_mask = pool_mask(attention_mask, p)
        ropes, masks = self.ropes(grid), self.masks(video_mask, b, x.shape[1])
        all_tokens = None
        if self.shares is not None:
            all_tokens, length = x.shape[1], y.shape[1]
            if text_lengths is None:
                text_lengths = ops.full((b,), length, dtype=ms.int32)
            x, y = self.shares.video(x), self.shares.text(y)

        skips = ()
        for s, stage in enumerate(self.transformer_blocks):
            if self.config.skip_connection and s > self.middle:  # last in, first out
                j = s - self.middle - 1
                x_skip, y_skip = skips[self.middle - 1 - j]
                x = self.skip_norm_linear[j](x, x_skip)
                y = self.skip_norm_linear_enc[j](y, y_skip)
            for block, layout in zip(stage, self.layout_of[s]):
                x, y = block(
                    x, y, c, ropes[layout], text_lengths, masks[layout],
                    segments[layout] if segments else None, all_tokens,
                )  # fmt: skip
            if s < self.middle:
                skips = skips + ((x, y),)

        x = self.norm_out(self.norm_final(x), c)  # two LayerNorms in a row
        x = self.proj_out(x)
        if self.shares is not None:
            x = self.shares.join(x, all_tokens)
        return unpatchify(x, grid, p)
