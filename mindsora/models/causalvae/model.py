"""CausalVAE (also OD-VAE): Stable Diffusion's autoencoder with causal 3-D blocks, 4x8x8 (Open-Sora Plan v1.1, v1.2).

Paper: "OD-VAE: An Omni-dimensional Video Compressor for Improving Latent Video Diffusion Model" (arXiv 2409.01199).
Inside, clips are channels-last (B, T, H, W, C); at the border they are (B, C, T, H, W).

The layers take a clip as a tuple of chunks along time (see mindsora.nn.video_group_norm). Chunked results are exact,
but chunks go through the model layer by layer, not one after the other: a group norm covers the whole clip.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from mindspore import Tensor, nn, ops

from mindsora.errors import InputError, shown
from mindsora.kernels import forms
from mindsora.models.autoencoder import VideoAutoencoder
from mindsora.models.tiling import Grid
from mindsora.models.upstream_keys import AUTOENCODER, read_config, write_config
from mindsora.nn.conv import CausalConv3d, Conv2d
from mindsora.nn.video import (
    Downsample,
    SpatialDownsample,
    SpatialUpsample,
    TimeDownsample,
    TimeDownsampleMixed,
    TimeUpsample,
    TimeUpsampleMixed,
    Upsample3D,
)
from mindsora.nn.video_group_norm import (
    GROUPS,
    AttentionBlock,
    GroupNorm,
    InChunks,
    MixedAttentionBlock,
    ResnetBlock2D,
    ResnetBlock3D,
)
from mindsora.ranges import Layers, Stride, Width, check_fields
from mindsora.shapes import SPATIAL_STRIDE, Tiling, chunks

# Upstream configuration keys with one value in every released model.
FIXED = {
    "attn_resolutions": [],
    "decoder_conv_in": "CausalConv3d",
    "decoder_conv_out": "CausalConv3d",
    "decoder_mid_resnet": "ResnetBlock3D",
    "double_z": True,
    "dropout": 0.0,
    "encoder_conv_out": "CausalConv3d",
    "encoder_mid_resnet": "ResnetBlock3D",
    "in_channels": 3,
    "norm_type": "groupnorm",
    "out_channels": 3,
    "q_conv": "CausalConv3d",
    "use_quant_layer": True,
}
_IRRELEVANT = AUTOENCODER | {"loss_params", "loss_type", "lr", "resolution"}  # the last four belong to training


class Sampler(NamedTuple):
    """A layer between two levels: the factor by which it changes the rate of frames, and what builds it."""

    rate: int
    build: Callable[[int], nn.Cell] | None


# The layers under upstream's names.
_CONVOLUTIONS = {"Conv2d": Conv2d, "CausalConv3d": CausalConv3d}
_RESNETS = {"ResnetBlock2D": ResnetBlock2D, "ResnetBlock3D": ResnetBlock3D}
_ATTENTIONS = {"AttnBlock3DFix": AttentionBlock, "AttnBlock3D": MixedAttentionBlock}
_NONE = {"": Sampler(1, None)}
_SPACE_DOWN = _NONE | {
    "Downsample": Sampler(1, partial(Downsample, temporal=False)),
    "SpatialDownsample2x": Sampler(1, SpatialDownsample),
    "Spatial2xTime2x3DDownsample": Sampler(2, partial(Downsample, temporal=True)),
}
_TIME_DOWN = _NONE | {
    "TimeDownsample2x": Sampler(2, TimeDownsample),
    "TimeDownsampleRes2x": Sampler(2, TimeDownsampleMixed),
}
_SPACE_UP = _NONE | {
    "SpatialUpsample2x": Sampler(1, SpatialUpsample),
    "Spatial2xTime2x3DUpsample": Sampler(2, partial(Upsample3D, linear=True, lookahead=1)),
}
_TIME_UP = _NONE | {
    "TimeUpsample2x": Sampler(2, TimeUpsample),
    "TimeUpsampleRes2x": Sampler(2, TimeUpsampleMixed),
}
_CHOICES = {
    "encoder_conv_in": _CONVOLUTIONS,
    "encoder_attention": _ATTENTIONS,
    "encoder_resnet_blocks": _RESNETS,
    "encoder_spatial_downsample": _SPACE_DOWN,
    "encoder_temporal_downsample": _TIME_DOWN,
    "decoder_attention": _ATTENTIONS,
    "decoder_resnet_blocks": _RESNETS,
    "decoder_spatial_upsample": _SPACE_UP,
    "decoder_temporal_upsample": _TIME_UP,
}


@dataclass(frozen=True)
class CausalVAEConfig:
    """Shape of a CausalVAE. Field names and defaults are those of upstream's constructor; v1.1 and v1.2 set all of them.

    Attributes:
        hidden_size_mult: width of every level of resolution, in units of hidden_size, from fine to coarse.
        num_res_blocks: blocks of a level in the encoder; the decoder has one more.
        z_channels: latent channels inside; embed_dim: those outside.
        *_blocks, *_downsample, *_upsample: layers by upstream's names, one for every level, "" for none.
    """

    hidden_size: Width = 128
    z_channels: Width = 4
    hidden_size_mult: tuple[Stride, ...] = (1, 2, 4, 4)
    embed_dim: Width = 4
    num_res_blocks: Layers = 2
    encoder_conv_in: str = "CausalConv3d"
    encoder_attention: str = "AttnBlock3D"
    encoder_resnet_blocks: tuple[str, ...] = ("ResnetBlock3D",) * 4
    encoder_spatial_downsample: tuple[str, ...] = ("SpatialDownsample2x",) * 3 + ("",)
    encoder_temporal_downsample: tuple[str, ...] = ("", "TimeDownsample2x", "TimeDownsample2x", "")
    decoder_attention: str = "AttnBlock3D"
    decoder_resnet_blocks: tuple[str, ...] = ("ResnetBlock3D",) * 4
    decoder_spatial_upsample: tuple[str, ...] = ("",) + ("SpatialUpsample2x",) * 3
    decoder_temporal_upsample: tuple[str, ...] = ("", "", "TimeUpsample2x", "TimeUpsample2x")

    def __post_init__(self):
        check_fields(self)
        levels = len(self.hidden_size_mult)
        for name, legal in _CHOICES.items():
            value = getattr(self, name)
            per_level = not isinstance(value, str)
            if per_level and len(value) != levels:
                raise InputError(f"{name} has {len(value)} entries for {levels} levels (hidden_size_mult)")
            for kind in value if per_level else (value,):
                if kind not in legal:
                    raise InputError(f"{name}: {shown(kind)} is none of {', '.join(map(repr, legal))}")
        for mult in self.hidden_size_mult:
            if mult * self.hidden_size % GROUPS:
                raise InputError(f"{mult} x {self.hidden_size} channels cannot be normalised in {GROUPS} groups")
        decoded = _rates(self.decoder_spatial_upsample, _SPACE_UP, self.decoder_temporal_upsample, _TIME_UP)
        encoded = _rates(self.encoder_spatial_downsample, _SPACE_DOWN, self.encoder_temporal_downsample, _TIME_DOWN)
        if encoded != decoded or encoded[1] != SPATIAL_STRIDE:
            raise InputError(
                f"strides in time and space: {encoded} in the encoder, {decoded} in the decoder; they "
                f"must be equal, and {SPATIAL_STRIDE} in space"
            )

    @property
    def latent_dim(self) -> int:
        return self.embed_dim

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return _rates(self.encoder_spatial_downsample, _SPACE_DOWN, self.encoder_temporal_downsample, _TIME_DOWN)[0]

    @property
    def scale(self) -> tuple[float, ...]:
        """The diffusion model's latents are (z - shift) * scale; upstream's pipelines use Stable Diffusion's factor."""
        return (0.18215,) * self.embed_dim

    @property
    def shift(self) -> tuple[float, ...]:
        return (0.0,) * self.embed_dim

    @classmethod
    def from_upstream(cls, config: Mapping) -> "CausalVAEConfig":
        """Read upstream's config.json."""
        return read_config(cls, config, "CausalVAE", FIXED, _IRRELEVANT)

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        return {"_class_name": "CausalVAEModel"} | write_config(self) | FIXED


def _rates(space: tuple[str, ...], space_kinds: dict, time: tuple[str, ...], time_kinds: dict) -> tuple[int, int]:
    """Total strides in time and in space of the layers between the levels."""
    return math.prod(space_kinds[s].rate * time_kinds[t].rate for s, t in zip(space, time)), 2 ** sum(map(bool, space))


def _level(
    block: type, in_channels: int, out_channels: int, count: int, samplers: dict[str, Sampler]
) -> nn.SequentialCell:
    """Blocks of one resolution and the layers that lead to the next, under their names in upstream's checkpoints."""
    widths = [in_channels] + [out_channels] * count
    layers = OrderedDict(block=nn.SequentialCell([block(a, b) for a, b in zip(widths, widths[1:])]))
    for name, sampler in samplers.items():
        if sampler.build:
            layers[name] = InChunks(sampler.build(out_channels))
    return nn.SequentialCell(layers)


def _middle(channels: int, attention: str) -> nn.SequentialCell:
    return nn.SequentialCell(
        OrderedDict(
            block_1=ResnetBlock3D(channels, channels),
            attn_1=_ATTENTIONS[attention](channels),
            block_2=ResnetBlock3D(channels, channels),
        )
    )


class _Half(nn.Cell):
    """The final layers of the encoder and of the decoder."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm_out = GroupNorm(in_channels)
        self.conv_out = CausalConv3d(in_channels, out_channels)

    def out(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        factors, tail, after = self.norm_out.factors(parts), None, ()
        for x in parts:
            y, tail = self.conv_out(ops.silu(self.norm_out(x, factors)), tail)
            after = after + (y,)
        return after


class Encoder(_Half):
    """Clip, chunks of (B, T, H, W, 3) -> chunks of (B, (T-1)/4+1, H/8, W/8, 2 z_channels)."""

    def __init__(self, config: CausalVAEConfig):
        widths = [config.hidden_size * mult for mult in config.hidden_size_mult]
        super().__init__(widths[-1], 2 * config.z_channels)
        self.conv_in = InChunks(_CONVOLUTIONS[config.encoder_conv_in](3, config.hidden_size))
        levels = []
        for i, (before, width) in enumerate(zip([config.hidden_size] + widths, widths)):
            block = _RESNETS[config.encoder_resnet_blocks[i]]
            levels.append(
                _level(
                    block,
                    before,
                    width,
                    config.num_res_blocks,
                    {
                        "downsample": _SPACE_DOWN[config.encoder_spatial_downsample[i]],
                        "time_downsample": _TIME_DOWN[config.encoder_temporal_downsample[i]],
                    },
                )
            )
        self.down = nn.SequentialCell(levels)
        self.mid = _middle(widths[-1], config.encoder_attention)

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.out(self.mid(self.down(self.conv_in(parts))))


class Decoder(_Half):
    """Latents, chunks of (B, T, H, W, z_channels) -> chunks of (B, 4(T-1)+1, 8H, 8W, 3)."""

    def __init__(self, config: CausalVAEConfig):
        widths = [config.hidden_size * mult for mult in config.hidden_size_mult]
        super().__init__(widths[0], 3)
        self.conv_in = InChunks(CausalConv3d(config.z_channels, widths[-1]))
        self.mid = _middle(widths[-1], config.decoder_attention)
        levels = {}
        for i, (width, before) in enumerate(zip(widths, widths[1:] + widths[-1:])):
            block = _RESNETS[config.decoder_resnet_blocks[i]]
            levels[str(i)] = _level(
                block,
                before,
                width,
                config.num_res_blocks + 1,
                {
                    "upsample": _SPACE_UP[config.decoder_spatial_upsample[i]],
                    "time_upsample": _TIME_UP[config.decoder_temporal_upsample[i]],
                },
            )
        self.up = nn.SequentialCell(OrderedDict(reversed(levels.items())))  # numbered from fine to coarse

    def construct(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.out(self.up(self.mid(self.conv_in(parts))))


class CausalVAE(VideoAutoencoder):
    """Video autoencoder of group norms: it runs in chunks along time exactly, but only layer by layer (see above)."""

    def __init__(self, config: CausalVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = InChunks(CausalConv3d(2 * config.z_channels, 2 * config.embed_dim, kernel=1))
        self.post_quant_conv = InChunks(CausalConv3d(config.embed_dim, config.z_channels, kernel=1))

    @classmethod
    def from_upstream(cls, config: Mapping) -> "CausalVAE":
        return cls(CausalVAEConfig.from_upstream(config))

    def moments(self, x: Tensor, chunked: bool) -> Tensor:
        x = x.transpose(0, 2, 3, 4, 1)
        parts = (x,)
        if chunked:
            stride = self.config.temporal_stride
            ends = [stride * (end - 1) + 1 for _, end, _ in chunks((x.shape[1] - 1) // stride + 1)]
            parts = tuple([forms.cut(x, 1, start, end) for start, end in zip([0] + ends, ends)])
        return ops.concat(self.quant_conv(self.encoder(parts)), 1).transpose(0, 4, 1, 2, 3)

    def decode_whole(self, z: Tensor) -> Tensor:
        return self.decode_parts(z.transpose(0, 2, 3, 4, 1))[0].transpose(0, 4, 1, 2, 3)

    def decode_parts(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Chunks (B, t, h, w, L) of a clip to chunks (B, T, 8h, 8w, 3); the first has two latent frames or is the clip."""
        return self.decoder(self.post_quant_conv(parts))

    def decode_chunks(
        self, z: Tensor, chunk_latents: int = 2, step: Callable | None = None, tile: Tiling | None = None
    ) -> Iterator[Tensor]:
        """The same, as chunks of pixels (B, 3, n, 8h, 8w). All are computed before the first is yielded.

        Args:
            chunk_latents: latent frames of a chunk (the first: two to chunk_latents + 1).
            step: what runs all chunks: `decode_parts`, or a compiled form of it that takes the same arguments.
            tile: in spatial tiles (see mindsora.models.tiling).
        """
        step, grid, pieces = step or self.decode_parts, Grid(z.shape[3], z.shape[4], tile), []
        for part in grid.cut(z):
            x = part.transpose(0, 2, 3, 4, 1)
            pieces.append(step(*(x[:, s:e] for s, e, _ in chunks(x.shape[1], chunk_latents))))
        for tiles in zip(*pieces):
            yield grid.join([y.transpose(0, 4, 1, 2, 3) for y in tiles])
