"""WF-VAE: the wavelet-flow video autoencoder, 8x8x8 (Open-Sora Plan v1.5) and 4x8x8 (v1.3, WF-VAE repository).

Paper: "WF-VAE: Enhancing Video VAE by Wavelet-Driven Energy Flow for Latent Video Diffusion Model" (arXiv 2411.17459).
Inside, clips are channels-last (B, T, H, W, C); at the border they are (B, C, T, H, W).

The calling convention of layers is that of mindsora.nn.video, `y, state = layer(x, state)`: the state makes processing a
clip in chunks along time exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from mindspore import Tensor, nn, ops

from mindsora.errors import InputError, shown
from mindsora.kernels import forms
from mindsora.kernels.choice import choose
from mindsora.models.autoencoder import VideoAutoencoder
from mindsora.models.tiling import Grid
from mindsora.models.upstream_keys import AUTOENCODER, read_config
from mindsora.nn.context_parallel import padded
from mindsora.nn.conv import CausalConv3d, Conv2d, Relay
from mindsora.nn.haar import haar2d, haar3d, inverse_haar2d, inverse_haar3d
from mindsora.nn.layers import LayerNorm, NormSiLU
from mindsora.nn.video import Downsample, FrameAttention, Upsample3D, double
from mindsora.parallel.collectives import ALONE, Gather, Group
from mindsora.ranges import Layers, Range, Width, check_fields
from mindsora.shapes import Tiling, chunks

_NORM_EPS = 1e-6

# Upstream's block names for its two variants; the misspelt "dowmsample" is upstream's.
BLOCKS_8 = {
    "l1_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l1_downsample_wavelet": "HaarWaveletTransform3D",
    "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l2_downsample_wavelet": "HaarWaveletTransform3D",
    "l1_upsample_block": "Spatial2xTime2x3DUpsample",
    "l1_upsample_wavelet": "InverseHaarWaveletTransform3D",
    "l2_upsample_block": "Spatial2xTime2x3DUpsample",
    "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
}
_BLOCKS_4 = BLOCKS_8 | {
    "l1_dowmsample_block": "Downsample",
    "l1_downsample_wavelet": "HaarWaveletTransform2D",
    "l1_upsample_block": "Upsample",
    "l1_upsample_wavelet": "InverseHaarWaveletTransform2D",
}


# The one attention of every released WF-VAE, under upstream's key and under MindSpeed-MM's.
_FIXED = {"attention_type": "AttnBlock3DFix", "atten_block": "WfCausalConv3dAttnBlock"}
_LAYER_NORMS = ("layernorm", "aelayernorm")  # the second is MindSpeed-MM's name


@dataclass(frozen=True)
class WFVAEConfig:
    """Shape of a WF-VAE. Defaults are upstream's constructor defaults, except for the norm, which is always layer norm.

    Attributes:
        temporal_stride: pixel frames per latent frame after the first: 8 or 4.
        scale, shift: latents for the diffusion model are (z - shift) * scale, one value per channel (one for all).
    """

    latent_dim: Width = 8
    base_channels: Width = 128
    encoder_num_resblocks: Layers = 2
    encoder_energy_flow_hidden_size: Width = 64
    decoder_num_resblocks: Layers = 2
    decoder_energy_flow_hidden_size: Width = 128
    use_attention: bool = True
    t_interpolation: str = "nearest"
    connect_res_layer_num: Annotated[int, Range(0, 512)] = 2
    temporal_stride: int = 4
    scale: tuple[Annotated[float, Range(-1e6, 1e6)], ...] = (0.18215,)
    shift: tuple[Annotated[float, Range(-1e6, 1e6)], ...] = (0.0,)

    def __post_init__(self):
        check_fields(self)
        if self.temporal_stride not in (4, 8):
            raise InputError(f"temporal_stride {self.temporal_stride}: WF-VAE exists with 4 and 8")
        if self.t_interpolation not in ("nearest", "trilinear"):
            raise InputError(f"t_interpolation {shown(self.t_interpolation)}: 'nearest' or 'trilinear'")
        for name in ("scale", "shift"):
            values = getattr(self, name)
            if len(set(values)) == 1 or len(values) == self.latent_dim:
                object.__setattr__(
                    self, name, tuple(values) if len(values) == self.latent_dim else (values[0],) * self.latent_dim
                )  # WF-VAE-L ships 4 values for 16 channels
            else:
                raise InputError(f"{name} has {len(values)} values for {self.latent_dim} latent channels")

    @classmethod
    def from_upstream(cls, config: dict) -> "WFVAEConfig":
        """Read upstream's config.json. Blocks must be those of the 8x8x8 or of the 4x8x8 variant."""
        config = dict(config)
        if config.pop("norm_type", "groupnorm") not in _LAYER_NORMS:  # upstream's default when the key is absent
            raise InputError("norm_type must be 'layernorm': group norm sees the whole clip and cannot be chunked")
        if config.pop("dropout", 0.0) != 0.0:
            raise InputError("dropout must be 0: no WF-VAE was trained with it")
        blocks = {key: config.pop(key, value) for key, value in _BLOCKS_4.items()}
        strides = {8: BLOCKS_8, 4: _BLOCKS_4}
        stride = next((s for s, names in strides.items() if names == blocks), None)
        if stride is None:
            raise InputError(
                f"blocks {shown(blocks, 600, quote=False)} are neither those of the 8x8x8 nor of the 4x8x8 WF-VAE"
            )
        config |= {"temporal_stride": stride}
        return read_config(cls, config, "WF-VAE", _FIXED, AUTOENCODER | {"lr"})

    def to_upstream(self) -> dict:
        """The config.json that from_upstream reads."""
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in self.__dict__.items() if k != "temporal_stride"}
        blocks = BLOCKS_8 if self.temporal_stride == 8 else _BLOCKS_4
        return {"_class_name": "WFVAE"} | own | {"norm_type": "layernorm", "dropout": 0.0} | blocks


class ResnetBlock2D(nn.Cell):
    """Two 3x3 convolutions per frame, each after norm and SiLU; the state is empty."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = NormSiLU(channels, _NORM_EPS)
        self.conv1 = Conv2d(channels, channels)
        self.norm2 = NormSiLU(channels, _NORM_EPS)
        self.conv2 = Conv2d(channels, channels)

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        h = self.conv1(self.norm1(x))[0]
        h = self.conv2(self.norm2(h))[0]
        return x + h, ()


class ResnetBlock3D(nn.Cell):
    """Two causal 3x3x3 convolutions, each after norm and SiLU; the shortcut is 1x1x1 where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, lookahead: int = 0):
        super().__init__()
        self.norm1 = NormSiLU(in_channels, _NORM_EPS)
        self.conv1 = CausalConv3d(in_channels, out_channels, lookahead=lookahead)
        self.norm2 = NormSiLU(out_channels, _NORM_EPS)
        self.conv2 = CausalConv3d(out_channels, out_channels, lookahead=lookahead)
        self.widens = in_channels != out_channels
        if self.widens:
            self.nin_shortcut = CausalConv3d(in_channels, out_channels, kernel=1)

    def construct(self, x: Tensor, state=None):
        tail1, tail2 = (None, None) if state is None else state
        h, tail1 = self.conv1(self.norm1(x), tail1)
        h, tail2 = self.conv2(self.norm2(h), tail2)
        if self.widens:
            x = self.nin_shortcut(x)[0]
        return x + h, (tail1, tail2)


class AttentionBlock(FrameAttention):
    """Attention within every frame, after a layer norm; the state is empty."""

    def __init__(self, channels: int):
        super().__init__(channels, LayerNorm(channels, _NORM_EPS))

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return x + self.attend(self.norm(x)), ()


class Upsample2D(nn.Cell):
    """Double H and W by repetition, then a 3x3 convolution per frame; no state."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels)

    def construct(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        return self.conv(double(double(x, 2, False), 3, False))


class Sequence(nn.SequentialCell):
    """Layers one after another; the state of a sequence is the tuple of its layers' states."""

    def construct(self, x: Tensor, state=None):
        after = ()
        for i in range(len(self.cell_list)):
            x, layer_state = self.cell_list[i](x, None if state is None else state[i])
            after = after + (layer_state,)
        return x, after


def _middle(in_channels: int, channels: int, out_channels: int, attention: bool, lookahead: int = 0) -> Sequence:
    blocks = [ResnetBlock3D(in_channels, channels, lookahead)]
    if attention:
        blocks.append(AttentionBlock(channels))
    return Sequence(blocks + [ResnetBlock3D(channels, out_channels, lookahead)])


class Encoder(nn.Cell):
    """Clip (B, T, H, W, 3) -> moments (B, (T-1)/r+1, H/8, W/8, 2L); the low bands' low bands flow in on the way."""

    def __init__(self, config: WFVAEConfig):
        super().__init__()
        c, flow, n = config.base_channels, config.encoder_energy_flow_hidden_size, config.encoder_num_resblocks
        self.temporal = config.temporal_stride == 8
        self.down1 = Sequence([Conv2d(24, c), *(ResnetBlock2D(c) for _ in range(n)), Downsample(c, self.temporal)])
        self.down2 = Sequence(
            [Conv2d(c + flow, 2 * c), *(ResnetBlock3D(2 * c, 2 * c) for _ in range(n)), Downsample(2 * c, True)]
        )
        self.connect_l1 = Conv2d(24 if self.temporal else 12, flow)
        self.connect_l2 = Conv2d(24, flow)
        self.mid = _middle(2 * c + flow, 4 * c, 4 * c, config.use_attention)
        self.norm_out = NormSiLU(4 * c, _NORM_EPS)
        self.conv_out = CausalConv3d(4 * c, 2 * config.latent_dim)

    def construct(self, x: Tensor, state=None):
        first = state is None
        s1, s2, s3, s4 = (None, None, None, None) if first else state
        w1 = haar3d(x, first)
        low = forms.cut(w1, -1, 0, 3)
        w2 = haar3d(low, first) if self.temporal else haar2d(low)
        w3 = haar3d(forms.cut(w2, -1, 0, 3), first)
        h, s1 = self.down1(w1, s1)
        h, s2 = self.down2(ops.concat((h, self.connect_l1(w2)[0]), -1), s2)
        h, s3 = self.mid(ops.concat((h, self.connect_l2(w3)[0]), -1), s3)
        h, s4 = self.conv_out(self.norm_out(h), s4)
        return h, (s1, s2, s3, s4), (w2, w3)


class Decoder(nn.Cell):
    """Latents (B, T, H, W, L) -> clip (B, r(T-1)+1, 8H, 8W, 3); the trailing channels flow out into the low bands."""

    def __init__(self, config: WFVAEConfig):
        super().__init__()
        c, flow, n = config.base_channels, config.decoder_energy_flow_hidden_size, config.decoder_num_resblocks
        linear = config.t_interpolation == "trilinear"
        self.temporal = config.temporal_stride == 8
        self.flow = flow
        fine = 4 if self.temporal else 2  # look-ahead frames after the last upsampler; 1 latent = 1, 2, fine frames
        self.conv_in = CausalConv3d(config.latent_dim, 4 * c, lookahead=1)
        self.mid = _middle(4 * c, 4 * c, 4 * c + flow, config.use_attention, lookahead=1)
        self.up2 = Sequence(
            [
                *(ResnetBlock3D(4 * c, 4 * c, 1) for _ in range(n)),
                Upsample3D(4 * c, linear, 1),
                ResnetBlock3D(4 * c, 4 * c + flow, 2),
            ]
        )
        self.up1 = Sequence(
            [
                ResnetBlock3D(4 * c, 2 * c, 2),
                *(ResnetBlock3D(2 * c, 2 * c, 2) for _ in range(n - 1)),
                Upsample3D(2 * c, linear, 2) if self.temporal else Upsample2D(2 * c),
                ResnetBlock3D(2 * c, 2 * c, fine),
            ]
        )
        self.layer = Sequence([ResnetBlock3D(2 * c, c, fine), ResnetBlock3D(c, c, fine)])
        depth = config.connect_res_layer_num
        self.connect_l1 = Sequence(
            [*(ResnetBlock3D(flow, flow, 2) for _ in range(depth)), Conv2d(flow, 24 if self.temporal else 12)]
        )
        self.connect_l2 = Sequence([*(ResnetBlock3D(flow, flow, 1) for _ in range(depth)), Conv2d(flow, 24)])
        self.norm_out = NormSiLU(c, _NORM_EPS)
        self.conv_out = Conv2d(c, 24)
        self.begins = True  # whether the first chunk of this process is the clip's

    def construct(self, z: Tensor, state=None):
        features, low, state_after, bands = self.features(z, state)
        return self.last(features, low, state is None and self.begins), state_after, bands

    def features(self, z: Tensor, state=None):
        """What `last` takes: features and the low band's clip; then the state and the wavelet bands."""
        first = state is None and self.begins
        s0, s1, s2, s3, s4, s5, s6 = (None,) * 7 if state is None else state
        h, s0 = self.conv_in(z, s0)
        h, s1 = self.mid(h, s1)
        w3, s2 = self.connect_l2(forms.cut(h, -1, -self.flow), s2)
        h, s3 = self.up2(forms.cut(h, -1, 0, -self.flow), s3)
        w2, s4 = self.connect_l1(forms.cut(h, -1, -self.flow), s4)
        w2 = _add_low_band(w2, inverse_haar3d(w3, first))
        h, s5 = self.up1(forms.cut(h, -1, 0, -self.flow), s5)
        h, s6 = self.layer(h, s6)
        low = inverse_haar3d(w2, first) if self.temporal else inverse_haar2d(w2)
        return self.norm_out(h), low, (s0, s1, s2, s3, s4, s5, s6), (w2, w3)

    def last(self, features: Tensor, low: Tensor, first: bool) -> Tensor:
        """The last convolution and the last inverse transform: frames of the clip's first chunk, or of a later one."""
        # Indexed, not unpacked: for an unpacked value that nobody reads MindSpore prints a warning in each graph.
        return inverse_haar3d(_add_low_band(self.conv_out(features)[0], low), first)


def _add_low_band(bands: Tensor, low: Tensor) -> Tensor:
    """Add a picture to the low-low-low band, the first three channels."""
    return ops.concat((forms.cut(bands, -1, 0, 3) + low, forms.cut(bands, -1, 3)), -1)


class WFVAE(VideoAutoencoder):
    """Video autoencoder of layer norms: it can be run in chunks along time, or chunk after chunk, exactly."""

    def __init__(self, config: WFVAEConfig):
        super().__init__()
        choose("haar")  # compiled here if needed, not during the first call
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.ranks, self.is_shared = ALONE, False  # a graph reads no property of a group

    def share_chunks(self, ranks: Group) -> None:
        """Let ranks decode neighbouring chunks at the same time; all of them call `decode` alike and get all frames."""
        relay = Relay(ranks)
        for _, cell in self.decoder.cells_and_names():
            if isinstance(cell, CausalConv3d | Upsample3D):
                cell.relay = relay
        self.decoder.begins = ranks.rank == 0
        self.ranks, self.is_shared, self.pieces = ranks, ranks.size > 1, Gather(ranks, 0)

    @classmethod
    def from_upstream(cls, config: dict) -> "WFVAE":
        return cls(WFVAEConfig.from_upstream(config))

    def encode_chunk(self, x: Tensor, state=None):
        """Moments (B, 2L, t, H/8, W/8) of a chunk and the state for the next: 1 frame first, then r at a time."""
        encoded = self.encoder(x.transpose(0, 2, 3, 4, 1), state)
        return encoded[0].transpose(0, 4, 1, 2, 3), encoded[1]

    def decode_chunk(self, z: Tensor, state=None):
        """Frames of a chunk and the state for the next. Chunks are cut as `decode_chunks` cuts them.

        A chunk that is not the clip's last also carries the next latent as look-ahead; its last r output frames
        belong to that latent and must be dropped. The first has two latents or more besides (or is the whole clip).
        """
        decoded = self.decoder(z.transpose(0, 2, 3, 4, 1), state)
        return decoded[0].transpose(0, 4, 1, 2, 3), decoded[1]

    def moments(self, x: Tensor, chunked: bool) -> Tensor:
        if not chunked:
            return self.encode_chunk(x)[0]
        moments, state = self.encode_chunk(x[:, :, :1])
        parts = (moments,)
        stride = self.config.temporal_stride
        for start in range(1, x.shape[2], stride):
            moments, state = self.encode_chunk(x[:, :, start : start + stride], state)
            parts = parts + (moments,)
        return ops.concat(parts, 2)

    def decode_whole(self, z: Tensor) -> Tensor:
        if self.is_shared:
            return ops.concat(list(self.decode_chunks(z)), 2)
        return self.decode_chunk(z)[0]

    def decode_chunks(
        self, z: Tensor, chunk_latents: int = 2, step: Callable | None = None, tile: Tiling | None = None
    ) -> Iterator[Tensor]:
        """The same, chunk after chunk: pixels (B, 3, n, 8h, 8w); memory does not grow with the clip's length.

        Args:
            chunk_latents: latent frames by which a chunk moves on, beside one of look-ahead.
            step: what runs a chunk: `decode_chunk`, or a compiled form of it that takes the same arguments.
            tile: in spatial tiles (see mindsora.models.tiling): tiles take turns in their work, but all keep their states.
        """
        step, grid = step or self.decode_chunk, Grid(z.shape[3], z.shape[4], tile)
        states, parts = {}, chunks(z.shape[2], chunk_latents)
        for first in range(0, len(parts), self.ranks.size):
            start, end, seen = parts[min(first + self.ranks.rank, len(parts) - 1)]  # without a chunk: the last again
            dropped = (seen - end) * self.config.temporal_stride
            tiles = []
            for i, part in enumerate(grid.cut(z[:, :, start:seen])):
                pixels, states[i] = step(part) if first == 0 else step(part, states[i])
                tiles.append(pixels[:, :, : pixels.shape[2] - dropped])
            yield from self._of_all(grid.join(tiles), parts[first : first + self.ranks.size])

    def _of_all(self, pixels: Tensor, parts: list[tuple[int, int, int]]) -> Iterator[Tensor]:
        """The pixels of every rank's chunk, in order. parts: these chunks."""
        if not self.is_shared:
            yield pixels
            return
        stride = self.config.temporal_stride
        frames = [(end - start) * stride - (stride - 1 if start == 0 else 0) for start, end, _ in parts]
        rows = forms.cut(pixels.swapaxes(1, 2), 1, 0, max(frames))  # (B, n, 3, H, W); without a chunk, of any length
        rows = padded(rows, max(frames))
        for chunk, count in zip(forms.chunk(self.pieces(rows), self.ranks.size, 0), frames):
            yield forms.narrow(chunk, 1, 0, count).swapaxes(1, 2)
