"""The denoisers of Open-Sora Plan v1.3.0: text to video (upstream class OpenSoraT2V_v1_3), and inpainting over frames
(OpenSoraInpaint_v1_3), which does image to video, transition and continuation. With every block dense they are those of
v1.2.0 (OpenSoraT2V and OpenSoraInpaint), which predict noise where v1.3's predict v.

Video tokens attend to each other, in most blocks sparsely (skiparse), then to the text, which stays unchanged. Time
conditions every block through one vector and the block's own table (adaLN-single: Chen et al. 2023, PixArt-alpha).

Shapes in the margin: B batch, N = T*h*w visual tokens, L text tokens, H heads, D head dimension, C = H*D channels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindsora.errors import InputError, shown
from mindsora.kernels import forms
from mindsora.kernels.ada_norm_modulate import ada_norm_modulate, gated_residual
from mindsora.kernels.choice import choose
from mindsora.kernels.gelu import gelu_tanh
from mindsora.kernels.qk_norm_rope import qk_norm_rope
from mindsora.kernels.skiparse_attention import cross_attention, skiparse_attention
from mindsora.models.opensora.names import plain
from mindsora.models.pretrained import Pretrained
from mindsora.models.upstream_keys import read_config, without_fixed, write_config
from mindsora.nn.compile_once import compile_once
from mindsora.nn.context_parallel import SharesTokens
from mindsora.nn.layers import FeedForward, Linear, row_linear
from mindsora.nn.modulation import Modulation
from mindsora.nn.patches import PatchEmbed, pool_mask, unpatchify
from mindsora.nn.rope import split_v1_3
from mindsora.nn.timestep import MLP, Sinusoid
from mindsora.parallel.shards import Shards, TensorParallel, ranks_of, tensor_parallel
from mindsora.ranges import Heads, HeadWidth, Layers, Scale, Stride, Width, check_fields

EPS = 1e-6
TIME_DIM = 256
# Blocks 2 to 29 attend sparsely: upstream's code fixes these numbers for any depth, and weights are trained with them.
SPARSE_BLOCKS = range(2, 30)

# Upstream configuration keys with one value in every released model. Upstream's own defaults differ.
FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "double_self_attention": False,
    "norm_elementwise_affine": False,
    "norm_eps": EPS,
    "only_cross_attention": False,
    "patch_size_t": 1,
    "sparse1d": True,
    "upcast_attention": False,
}
# Keys found only in v1.2's files, with the value that all of them have.
_FIXED_V1_2 = {
    "attention_type": "default",
    "downsampler": None,
    "norm_type": "ada_norm_single",
    "num_vector_embeds": None,
    "use_additional_conditions": None,
    "use_linear_projection": False,
    "use_rope": True,
}
_IRRELEVANT = {
    "attention_mode", "dropout", "input_size", "interpolation_scale_h", "interpolation_scale_t", "interpolation_scale_w",
    "model", "norm_num_groups", "num_embeds_ada_norm", "sample_size",
    "sample_size_h", "sample_size_t", "sample_size_w", "text_lengths", "use_stable_fp32",
}  # fmt: skip
_CELLS = {
    "OpenSoraT2V_v1_3": "OpenSoraT2V",
    "OpenSoraInpaint_v1_3": "OpenSoraInpaint",
    "OpenSoraT2V": "OpenSoraT2V",
    "OpenSoraInpaint": "OpenSoraInpaintV1_2",
}
_V1_2 = ("OpenSoraT2V", "OpenSoraInpaint")  # what upstream called the classes in v1.2


def _scale(config: Mapping, axis: str) -> float:
    """The divisor of positions along an axis, "t", "h" or "w"; null means: derived from the training size."""
    scale = config.get(f"interpolation_scale_{axis}", 1.0)
    if scale is not None:
        return scale
    height, width = config.get("sample_size") or (config.get("sample_size_h"), config.get("sample_size_w"))
    size = {"t": config.get("sample_size_t"), "h": height, "w": width}[axis]
    if not isinstance(size, int):
        raise InputError(
            f"interpolation_scale_{axis} is null, and sample_size, which decides it, is {shown(size, quote=False)}"
        )
    if axis == "t":
        return float((size - 1) // 16 + 1) if size % 2 else size / 16
    return size / {"h": 30, "w": 40}[axis]


@dataclass(frozen=True)
class OpenSoraConfig:
    """Shape of the network; the field names are upstream's.

    Attributes:
        in_channels, out_channels: of the latents.
        sparse_n: number of sub-sequences n of the skiparse attention (upstream: 1 or 4).
    """

    num_layers: Layers = 32
    num_attention_heads: Heads = 24
    attention_head_dim: HeadWidth = 96
    in_channels: Width = 8
    out_channels: Width = 8
    caption_channels: Width = 4096
    patch_size: Stride = 2
    sparse_n: Stride = 4
    interpolation_scale: tuple[Scale, Scale, Scale] = (1.0, 1.0, 1.0)  # of t, y, x positions

    def __post_init__(self):
        check_fields(self)
        object.__setattr__(self, "interpolation_scale", tuple(self.interpolation_scale))  # lists from JSON or YAML
        if self.attention_head_dim % 6:
            nearest = -(-self.attention_head_dim // 6) * 6
            raise InputError(f"attention_head_dim {self.attention_head_dim} must be divisible by 6; nearest: {nearest}")

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_upstream(cls, config: Mapping) -> "OpenSoraConfig":
        """From the keys of upstream's diffusers `config.json`.

        Raises:
            InputError: an unknown key, or a key that asks for a variant that does not exist here.
        """
        config = plain(config)
        if config.get("_class_name") in _V1_2:
            config = without_fixed(config, {"sparse_n": 1}, "a denoiser of v1.2, dense in every block,") | {
                "sparse_n": 1
            }
        config["interpolation_scale"] = tuple(_scale(config, axis) for axis in "thw")
        width = config.pop("cross_attention_dim", None)
        found = read_config(cls, config, "the denoiser", FIXED | _FIXED_V1_2, _IRRELEVANT)
        if width is not None and width != found.dim:  # the text is projected to the stream's own width
            raise InputError(
                f"cross_attention_dim {shown(width, quote=False)} must be "
                f"num_attention_heads {found.num_attention_heads} * "
                f"attention_head_dim {found.attention_head_dim} = {found.dim}"
            )
        return found

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        return write_config(self) | FIXED | {"cross_attention_dim": self.dim}


@dataclass(frozen=True)
class OpenSoraInpaintConfig(OpenSoraConfig):
    """The attributes of OpenSoraConfig, and:

    vae_scale_factor_t: pixel frames of a latent frame, which is the number of mask channels.
    """

    vae_scale_factor_t: Stride = 4


class TextProjection(nn.Cell):
    """Text features to the stream's width: linear, GELU, linear. (B, L, caption_channels) -> (B, L, C)."""

    def __init__(self, in_features: int, dim: int):
        super().__init__()
        self.linear_1 = Linear(in_features, dim)
        self.linear_2 = Linear(dim, dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.linear_2(gelu_tanh(self.linear_1(x)))


class AdaLNSingle(nn.Cell):
    """Diffusion time, once for all blocks: (B,) -> its embedding (B, 1, C), and modulation (B, 6, C); float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.sinusoid = Sinusoid(TIME_DIM)
        self.timestep_embedder = MLP(TIME_DIM, dim)
        self.linear = Modulation(dim, 6 * dim)

    def construct(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        time = self.sinusoid(timestep).astype(self.linear.weight.dtype)
        embedding = self.timestep_embedder(time).astype(ms.float32)  # (B, C)
        return embedding.expand_dims(1), self.linear(ops.silu(embedding)).reshape(time.shape[0], 6, -1)


class SelfAttention(nn.Cell):
    """Video tokens attend to each other, or to those of their own sub-sequence. (B, N, C) -> (B, N, C).

    A sub-sequence without any real token gives zero. (Upstream's GPU path looks at its zero padding there, because it
    adds -9980 to padding and -10000 to masked tokens; its NPU path leaves both out, as this code does.)

    Args:
        tp: ranks that share the heads.
        shared: ranks that share the tokens, see `mindsora.nn.context_parallel`.
    """

    def __init__(
        self,
        config: OpenSoraConfig,
        sparse_n: int,
        group: bool,
        tp: TensorParallel | None = None,
        shared: nn.Cell | None = None,
    ):
        super().__init__()
        dim, self.head_dim = config.dim, config.attention_head_dim
        self.heads = config.num_attention_heads // ranks_of(tp)
        own = self.heads * self.head_dim
        self.sparse_n, self.group = sparse_n, group
        self.copy, self.shared = None if tp is None else tp.copy, shared
        self.rope_split = split_v1_3(self.head_dim)
        self.to_q, self.to_k, self.to_v = (Linear(dim, own) for _ in range(3))
        self.to_out = row_linear(own, dim, tp)

    def construct(
        self, x: Tensor, rope: tuple[Tensor, Tensor], video_mask: Tensor | None, all_tokens: int | None = None
    ) -> Tensor:
        share = x.shape[1]
        if self.copy is not None:
            x = self.copy(x)
        if self.shared is not None:
            x = self.shared.enter(x, rope[0].shape[1])
        shape = (x.shape[0], x.shape[1], self.heads, self.head_dim)
        q = self.rotate(self.to_q(x).reshape(shape), rope)  # (B, N, H, D)
        k = self.rotate(self.to_k(x).reshape(shape), rope)
        v = self.to_v(x).reshape(shape)
        if self.shared is None:
            x = skiparse_attention(q, k, v, sparse_n=self.sparse_n, group=self.group, video_mask=video_mask)[0]
        else:
            x = self.shared(q, k, v, None, None, None, None, video_mask, None, all_tokens)[0]
        x = self.to_out(x.reshape(shape[0], shape[1], -1))
        return x if self.shared is None else self.shared.leave(x, share)

    def rotate(self, x, rope):
        return qk_norm_rope(x, rope=rope, norm="none", split=self.rope_split)


class CrossAttention(nn.Cell):
    """Every video token attends to all of the text, which has no position. (B, N, C), (B, L, C) -> (B, N, C).

    tp: ranks that share the heads; the caller passes the text through `tp.copy`.
    """

    def __init__(self, config: OpenSoraConfig, tp: TensorParallel | None = None):
        super().__init__()
        dim, self.heads = config.dim, config.num_attention_heads // ranks_of(tp)
        own = self.heads * config.attention_head_dim
        self.copy = None if tp is None else tp.copy
        self.to_q, self.to_k, self.to_v = (Linear(dim, own) for _ in range(3))
        self.to_out = row_linear(own, dim, tp)

    def construct(self, x: Tensor, y: Tensor, text_lengths: Tensor | None) -> Tensor:
        if self.copy is not None:
            x = self.copy(x)
        b, tokens, length = x.shape[0], x.shape[1], y.shape[1]
        q = self.to_q(x).reshape(b, tokens, self.heads, -1)  # (B, N, H, D)
        k = self.to_k(y).reshape(b, length, self.heads, -1)  # (B, L, H, D)
        v = self.to_v(y).reshape(b, length, self.heads, -1)
        return self.to_out(cross_attention(q, k, v, text_lengths).reshape(b, tokens, -1))


class Block(nn.Cell):
    """Attention to the video, attention to the text, feed-forward."""

    def __init__(
        self,
        config: OpenSoraConfig,
        sparse_n: int,
        group: bool,
        tp: TensorParallel | None = None,
        shared: nn.Cell | None = None,
    ):
        super().__init__()
        dim = config.dim
        self.scale_shift_table = Parameter(initializer(Normal(dim**-0.5), (6, dim)))
        self.attn1 = SelfAttention(config, sparse_n, group, tp, shared)
        self.attn2 = CrossAttention(config, tp)
        self.ff = FeedForward(dim, tp=tp)

    def construct(self, x, y, modulation, rope, text_lengths, video_mask, all_tokens=None):
        rows = self.scale_shift_table.astype(ms.float32) + modulation  # (B, 6, C)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = forms.chunk(rows, 6, 1)  # (B, 1, C)
        h = ada_norm_modulate(x, shift, scale, eps=EPS)
        x = gated_residual(x, gate, self.attn1(h, rope, video_mask, all_tokens))  # (B, N, C)
        x = x + self.attn2(x, y, text_lengths)  # on the raw stream: the weights are trained with neither norm nor gate
        h = ada_norm_modulate(x, shift_ff, scale_ff, eps=EPS)
        return gated_residual(x, gate_ff, self.ff(h))


class OpenSoraT2V(Pretrained, SharesTokens):
    """Predicts v = sqrt(alpha) * noise - sqrt(1 - alpha) * clean of a noisy latent video; v1.2's weights predict noise.

    Args:
        config: shape of the network.
        shards: the groups of ranks that share it (docs/parallel.md); None: this process has all of it.

    Raises:
        InputError: groups that do not divide the heads.
    """

    def __init__(self, config: OpenSoraConfig, shards: Shards | None = None):
        super().__init__()
        self.config = config
        if shards is not None:
            shards.check_heads("num_attention_heads", config.num_attention_heads)
        for operator in ("ada_norm_modulate", "qk_norm_rope", "skiparse_attention"):
            choose(operator)  # compiled here if needed, not during the first call
        dim = config.dim
        self.kind, self.channels = type(self).__name__, config.in_channels  # channels of `hidden_states`
        self.rope_split = split_v1_3(config.attention_head_dim)
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, dim)
        self.caption_projection = TextProjection(config.caption_channels, dim)
        self.adaln_single = AdaLNSingle(dim)
        n = config.sparse_n
        kinds = [(n, n > 1 and i % 2 == 1) if i in SPARSE_BLOCKS else (1, False) for i in range(config.num_layers)]
        self.share_tokens(shards, tuple(dict.fromkeys(kinds)))
        self.layout_of = tuple(map(self.layouts.index, kinds))
        tp = tensor_parallel(shards)
        self.copy = None if tp is None else tp.copy
        self.transformer_blocks = nn.CellList(
            compile_once(
                Block(config, kinds[i][0], i % 2 == 1, tp, self.shared[self.layout_of[i]])
                for i in range(config.num_layers)
            )
        )
        self.scale_shift_table = Parameter(initializer(Normal(dim**-0.5), (2, dim)))
        self.proj_out = Linear(dim, config.patch_size**2 * config.out_channels)

    @classmethod
    def from_upstream(cls, config: Mapping, shards: Shards | None = None) -> "OpenSoraT2V":
        """Build from upstream's diffusers `config.json`. InputError: also where it is another model's."""
        _check_task(cls.__name__, config)
        return cls(OpenSoraConfig.from_upstream(config), shards)

    def construct(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            hidden_states: noisy latents (B, c, T, H, W), scaled by the scheduler. For OpenSoraInpaint:
                (B, 2c + r, T, H, W), the noisy latents, the latents of the masked video, and the mask of the r =
                vae_scale_factor_t pixel frames of every latent frame, 1 where they are to be generated.
            timestep: (B,), 0 to 999, also between whole steps.
            encoder_hidden_states: mT5 states (B, 1, L, caption_channels).
            pooled_projections: not read: v1.3 has no pooled text. (Present so that all denoisers have the same signature.)
            attention_mask: (B, T, H, W), non-zero for real latents; None when all are. A mask takes a slower path.
            encoder_attention_mask: (B, 1, L) or (B, L), 1 for real text tokens. They must come first, as tokenisers
                put them: only their number is used. None when all are.

        Returns:
            v, or the noise for v1.2's weights: (B, c_out, T, p * (H // p), p * (W // p)) in the model's dtype.

        Raises:
            InputError: channels that are not the model's, or latents smaller than a patch.
        """
        _check_inputs(
            self.kind,
            hidden_states.shape,
            self.channels,
            self.config.patch_size,
            encoder_hidden_states.shape,
            self.config.caption_channels,
        )
        dtype = self.proj_out.weight.dtype
        p = self.config.patch_size
        b, _, t, height, width = hidden_states.shape
        grid = (t, height // p, width // p)
        x = self.embed(hidden_states.astype(dtype))  # (B, N, C)
        y = self.caption_projection(encoder_hidden_states.astype(dtype).reshape(b, -1, encoder_hidden_states.shape[-1]))
        embedding, modulation = self.adaln_single(timestep)
        if self.copy is not None:
            y = self.copy(y)
        text_lengths, video_mask = None, None
        if encoder_attention_mask is not None:
            text_lengths = encoder_attention_mask.reshape(b, -1).astype(ms.int32).sum(-1)
        if attention_mask is not None:
            video_mask = pool_mask(attention_mask, p)
        # In half precision the angles of v1.3 are rounded before cos and sin, and the weights are trained with that.
        ropes, masks = self.ropes(grid, dtype), self.masks(video_mask, b, x.shape[1])
        all_tokens = None
        if self.shares is not None:
            all_tokens = x.shape[1]
            x = self.shares.video(x)  # the text stays whole: only queries of the video attend to it

        for block, layout in zip(self.transformer_blocks, self.layout_of):
            x = block(x, y, modulation, ropes[layout], text_lengths, masks[layout], all_tokens)

        # From the embedding itself; blocks take the modulation computed from it.
        shift, scale = forms.chunk(self.scale_shift_table.astype(ms.float32) + embedding, 2, 1)  # (B, 1, C)
        x = self.proj_out(ada_norm_modulate(x, shift, scale, eps=EPS))
        if self.shares is not None:
            x = self.shares.join(x, all_tokens)
        return unpatchify(x, grid, p)

    def embed(self, x: Tensor) -> Tensor:
        """(B, c, T, H, W) -> (B, N, C)."""
        return self.patch_embed(x)


class ZeroLinear(Linear):
    """A linear layer without bias, initialised to zero."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, bias=False)
        self.weight = Parameter(initializer("zeros", (dim, dim)))


class ConditionEmbed(nn.Cell):
    """Patches of a condition, merged through a linear layer that starts as zero. (B, c, T, H, W) -> (B, N, C)."""

    def __init__(self, patch: int, in_channels: int, dim: int):
        super().__init__()
        self.patches = PatchEmbed(patch, in_channels, dim)
        self.merge = ZeroLinear(dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.merge(self.patches(x))


class OpenSoraInpaint(OpenSoraT2V):
    """OpenSoraT2V conditioned on given frames: it generates those where the mask is 1, and sees the others' latents.

    Args:
        config, shards: as of OpenSoraT2V.
    """

    def __init__(self, config: OpenSoraInpaintConfig, shards: Shards | None = None):
        super().__init__(config, shards)
        self.channels = 2 * config.in_channels + config.vae_scale_factor_t
        self.add_embed(ConditionEmbed(config.patch_size, config.in_channels, config.dim))
        self.embed_mask = ConditionEmbed(config.patch_size, config.vae_scale_factor_t, config.dim)

    @classmethod
    def from_upstream(cls, config: Mapping, shards: Shards | None = None) -> "OpenSoraInpaint":
        """Build from upstream's diffusers `config.json`. InputError: also where it is another model's."""
        _check_task(cls.__name__, config)
        return cls(OpenSoraInpaintConfig.from_upstream(config), shards)

    @classmethod
    def from_t2v(cls, t2v: OpenSoraT2V, vae_scale_factor_t: Stride = 4) -> "OpenSoraInpaint":
        """The starting point of training: it computes the same as `t2v`, whatever frames it is given."""
        inpaint = cls(OpenSoraInpaintConfig(**asdict(t2v.config), vae_scale_factor_t=vae_scale_factor_t))
        source = {p.name: p for p in t2v.get_parameters()}
        for embed in ("embed_masked_video", "embed_grey_video"):
            source |= {f"{embed}.patches.{name}": source[f"patch_embed.{name}"] for name in ("weight", "bias")}
        for parameter in inpaint.get_parameters():
            if parameter.name in source:  # the mask's patches and the zero layers are new
                value = source[parameter.name]
                parameter.set_dtype(value.dtype)
                parameter.set_data(Tensor(value.asnumpy(), dtype=value.dtype))
        return inpaint

    def add_embed(self, embed: ConditionEmbed) -> None:
        """Register the embedding of the masked video, under a name that tells which frames the weights take as hidden."""
        self.embed_masked_video = embed

    def embed(self, x: Tensor) -> Tensor:
        """(B, 2c + r, T, H, W) -> (B, N, C)."""
        c = self.config.in_channels
        noisy, masked_video, mask = forms.cut(x, 1, 0, c), forms.cut(x, 1, c, 2 * c), forms.cut(x, 1, 2 * c)
        return self.patch_embed(noisy) + self.embed_masked_video(masked_video) + self.embed_mask(mask)


class OpenSoraInpaintV1_2(OpenSoraInpaint):
    """v1.2's denoiser: dense; frames not given are grey, and the mask's channels are in another order.

    The computation is OpenSoraInpaint's; `mindsora.data.frame_masks` defines both conditions.
    """

    def add_embed(self, embed: ConditionEmbed) -> None:
        self.embed_grey_video = embed

    def embed(self, x: Tensor) -> Tensor:
        """(B, 2c + r, T, H, W) -> (B, N, C)."""
        c = self.config.in_channels
        noisy, grey_video, mask = x[:, :c], x[:, c : 2 * c], x[:, 2 * c :]
        return self.patch_embed(noisy) + self.embed_grey_video(grey_video) + self.embed_mask(mask)


def _check_task(cell: str, config: Mapping) -> None:
    """Raise InputError for the configuration of another denoiser."""
    name = config.get("_class_name")
    if name is not None and name not in _CELLS:
        raise InputError(f"_class_name = {shown(name)} is another network; {cell} is {' or '.join(_CELLS)} upstream")
    shows_frames = "vae_scale_factor_t" in config
    other = _CELLS.get(name, "OpenSoraInpaint" if shows_frames and "Inpaint" not in cell else cell)
    if other != cell:
        raise InputError(
            f"this is the configuration of {other}, not of {cell}: _class_name is "
            f"{shown(config.get('_class_name'))}, vae_scale_factor_t {shown(config.get('vae_scale_factor_t'), quote=False)}"
        )


@ops.constexpr
def _check_inputs(cell, latents, channels, p, text, caption_channels):
    if len(latents) != 5 or latents[1] != channels:
        hint = "" if "Inpaint" not in cell else ": noisy latents, latents of the masked video, and mask"
        raise InputError(f"latents of shape {latents} must be (B, {channels}, T, H, W) for {cell}{hint}")
    if min(latents[3:]) < p:
        raise InputError(f"latents of {latents[3]} x {latents[4]} are smaller than a patch of {p} x {p}")
    if text[0] != latents[0] or text[-1] != caption_channels:
        raise InputError(f"text of shape {text} must be (B, 1, L, {caption_channels}) with B = {latents[0]}")
