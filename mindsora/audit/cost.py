"""Floating-point operations, counted from configurations. A multiply-add counts as two.

Matrix products and convolutions are counted, as they run here; norms, activations and Haar sums are not (below 1 % of a
released model). Every count is of one row; guidance runs the text encoders and the denoiser on two.
"""

from collections import Counter
from itertools import groupby

from mindsora.shapes import chunks


def padded(tokens: int, sparse_n: int) -> int:
    """Visual tokens after skiparse padding: the next multiple of n^2 (none is added where n is 1)."""
    return -(-tokens // sparse_n**2) * sparse_n**2


def stages(config) -> list[tuple[int, int]]:
    """(blocks, sparse_n) of every stage of SUV; of v1.3's denoiser: before, among and behind its sparse blocks."""
    if isinstance(config.num_layers, tuple):
        return list(zip(config.num_layers, config.sparse_n))
    from mindsora.models.opensora.model import SPARSE_BLOCKS  # here: imports MindSpore

    each = (config.sparse_n if block in SPARSE_BLOCKS else 1 for block in range(config.num_layers))
    return [(len(list(blocks)), n) for n, blocks in groupby(each)]


def suv(config, tokens: int, text: int, dense: bool = False) -> Counter:
    """One evaluation of SUV.

    Args:
        config: SUVConfig.
        tokens, text: visual and text tokens.
        dense: as if every stage attended fully; the rest stays as it is.

    Returns:
        attention (scores and their product with the values), linear (inside the blocks), skip, other.
    """
    c, e = config.dim, config.timestep_embed_dim
    count = Counter()
    for stage, (blocks, sparse_n) in enumerate(stages(config)):
        n = 1 if dense else sparse_n
        group = padded(tokens, n) // n
        for block in range(blocks):
            last = (stage, block) == (len(config.num_layers) - 1, config.num_layers[-1] - 1)
            answers = not last or config.last_block_text  # text is updated too
            count["attention"] += n * 4 * (group + text * answers) * (group + text) * c
            count["linear"] += 2 * tokens * 12 * c * c  # q, k, v, out and the feed-forward's 8
            count["linear"] += 2 * text * (12 if answers else 2) * c * c  # the last block's text: k and v
            count["other"] += 2 * 12 * e * c  # two modulations of 6 C
    count["skip"] += (len(config.num_layers) // 2) * 2 * (tokens + text) * 2 * c * c
    patch = config.patch_size**2
    count["other"] += 2 * tokens * c * patch * (config.in_channels + config.out_channels)
    count["other"] += 2 * text * config.caption_channels * c
    count["other"] += 2 * e * (3 * e + config.pooled_projection_dim) + 2 * 2 * e * c  # time and pooled text; norm_out
    return count


def opensora(config, tokens: int, text: int, dense: bool = False) -> Counter:
    """One evaluation of v1.3's denoiser, OpenSoraT2V or OpenSoraInpaint. Arguments as `suv`'s.

    Returns:
        attention (of the video to itself), cross_attention (to the text), linear (inside the blocks), other.
    """
    from mindsora.models.opensora.model import TIME_DIM  # here: imports MindSpore

    c, patch = config.dim, config.patch_size**2
    count = Counter()
    for blocks, sparse_n in stages(config):
        n = 1 if dense else sparse_n
        count["attention"] += blocks * n * 4 * (padded(tokens, n) // n) ** 2 * c
        count["cross_attention"] += blocks * 4 * tokens * text * c  # all of the text, in sparse blocks too
        count["linear"] += blocks * 2 * tokens * 14 * c * c  # self 4, cross 2, the feed-forward's 8
        count["linear"] += blocks * 2 * text * 2 * c * c  # the text's k and v
    count["other"] += 2 * tokens * c * patch * (config.in_channels + config.out_channels)
    count["other"] += 2 * text * (config.caption_channels * c + c * c)
    count["other"] += 2 * (TIME_DIM * c + c * c + 6 * c * c)  # time, and its modulation
    if mask := getattr(config, "vae_scale_factor_t", 0):  # masked video and mask, each merged
        count["other"] += 2 * tokens * c * (patch * (config.in_channels + mask) + 2 * c)
    return count


def t5(config, length: int) -> Counter:
    """The T5 encoder on one text of `length` tokens, padding included."""
    inner = config.num_heads * config.d_kv
    linear = 2 * length * (4 * config.d_model * inner + 3 * config.d_model * config.d_ff)
    return Counter(attention=config.num_layers * 4 * length**2 * inner, linear=config.num_layers * linear)


def clip_text(config, length: int) -> Counter:
    """The CLIP text model on one text of `length` tokens, padding included."""
    width = config.hidden_size
    linear = 2 * length * (4 * width**2 + 2 * width * config.intermediate_size)
    return Counter(
        attention=config.num_hidden_layers * 4 * length**2 * width,
        linear=config.num_hidden_layers * linear + 2 * width * config.projection_dim,
    )


def wfvae_encode(config, frames: int, height: int, width: int) -> Counter:
    """WF-VAE's encoder on a whole clip of pixels: convolution, attention."""
    c, flow, n = config.base_channels, config.encoder_energy_flow_hidden_size, config.encoder_num_resblocks
    temporal = config.temporal_stride == 8
    t1 = (frames - 1) // 2 + 1  # behind the first Haar transform
    t2 = (t1 - 1) // 2 + 1 if temporal else t1
    t3 = (t2 - 1) // 2 + 1
    h, w = height // 2, width // 2
    p1, p2, p3 = t1 * h * w, t2 * (h // 2) * (w // 2), t3 * (h // 4) * (w // 4)
    count = _conv(p1, 24, c, 9) + n * 2 * _conv(p1, c, c, 9) + _conv(p2, c, c, 27 if temporal else 9)
    count += _conv(p2, 24 if temporal else 12, flow, 9) + _conv(p2, c + flow, 2 * c, 9)
    count += n * _block(p2, 2 * c, 2 * c) + _conv(p3, 2 * c, 2 * c, 27)
    count += _conv(p3, 24, flow, 9) + _block(p3, 2 * c + flow, 4 * c) + _block(p3, 4 * c, 4 * c)
    count += _conv(p3, 4 * c, 2 * config.latent_dim, 27)
    return Counter(convolution=count) + _attention(config, t3, (h // 4) * (w // 4))


def wfvae_decode(config, frames: int, height: int, width: int, first: bool = True) -> Counter:
    """WF-VAE's decoder on latents in one go: convolution, attention. A later chunk (not `first`) doubles all frames."""
    c, flow, n = config.base_channels, config.decoder_energy_flow_hidden_size, config.decoder_num_resblocks
    temporal, depth = config.temporal_stride == 8, config.connect_res_layer_num
    t2 = 2 * frames - first
    t3 = 2 * t2 - first if temporal else t2
    area = height * width
    p1, p2, p3 = frames * area, t2 * 4 * area, t3 * 16 * area
    count = _conv(p1, config.latent_dim, 4 * c, 27) + _block(p1, 4 * c, 4 * c) + _block(p1, 4 * c, 4 * c + flow)
    count += depth * _block(p1, flow, flow) + _conv(p1, flow, 24, 9) + n * _block(p1, 4 * c, 4 * c)
    count += _conv(p2, 4 * c, 4 * c, 27) + _block(p2, 4 * c, 4 * c + flow)
    count += depth * _block(p2, flow, flow) + _conv(p2, flow, 24 if temporal else 12, 9)
    count += _block(p2, 4 * c, 2 * c) + (n - 1) * _block(p2, 2 * c, 2 * c)
    count += _conv(p3, 2 * c, 2 * c, 27 if temporal else 9) + _block(p3, 2 * c, 2 * c)
    count += _block(p3, 2 * c, c) + _block(p3, c, c) + _conv(p3, c, 24, 9)
    return Counter(convolution=count) + _attention(config, frames, area)


def wfvae_decode_chunked(config, frames: int, height: int, width: int) -> Counter:
    """The same in the temporal chunks of `WFVAE.decode`: most carry a latent frame of look-ahead that counts again."""
    count = Counter()
    for start, _, seen in chunks(frames):
        count += wfvae_decode(config, seen - start, height, width, first=start == 0)
    return count


def causalvae_encode(config, frames: int, height: int, width: int) -> Counter:
    """CausalVAE's encoder on a whole clip of pixels: convolution, attention. In chunks it is the same."""
    wide, before, last = _widths(config), config.hidden_size, _widths(config)[-1]
    count = _conv(frames * height * width, 3, before, _TAPS[config.encoder_conv_in])
    for level, channels in enumerate(wide):
        taps = _TAPS[config.encoder_resnet_blocks[level]]
        count += _blocks(frames * height * width, before, channels, config.num_res_blocks, taps)
        before = channels
        if space := config.encoder_spatial_downsample[level]:
            frames, height, width = _fewer(frames, space), height // 2, width // 2
            count += _conv(frames * height * width, channels, channels, _TAPS[space])
        if time := config.encoder_temporal_downsample[level]:
            frames = _fewer(frames, time)
            count += _conv(frames * height * width, channels, channels, _TAPS[time])
    positions, latent = frames * height * width, 2 * config.z_channels
    count += _blocks(positions, last, last, 2) + _conv(positions, last, latent, 27)
    count += _conv(positions, latent, 2 * config.embed_dim, 1)
    return Counter(convolution=count) + _frame_attention(last, frames, height * width)


def causalvae_decode(config, frames: int, height: int, width: int, parts: int = 1) -> Counter:
    """CausalVAE's decoder on latents, in `parts` chunks: convolution, attention.

    A layer that doubles the frames sees one of the next chunk, whose two count again.
    """
    before = last = _widths(config)[-1]
    positions, latent = frames * height * width, config.z_channels
    count = _conv(positions, config.embed_dim, latent, 1) + _conv(positions, latent, last, 27)
    count += _blocks(positions, last, last, 2)
    attention = _frame_attention(last, frames, height * width)
    for level, channels in reversed(list(enumerate(_widths(config)))):
        taps = _TAPS[config.decoder_resnet_blocks[level]]
        count += _blocks(frames * height * width, before, channels, config.num_res_blocks + 1, taps)
        before = channels
        if space := config.decoder_spatial_upsample[level]:
            again = 2 * (parts - 1) if "Time" in space else 0
            frames, height, width = _more(frames, space), 2 * height, 2 * width
            count += _conv((frames + again) * height * width, channels, channels, _TAPS[space])
        if time := config.decoder_temporal_upsample[level]:
            frames, again = _more(frames, time), 2 * (parts - 1)
            count += _conv((frames + again) * height * width, channels, channels, _TAPS[time])
    return Counter(convolution=count + _conv(frames * height * width, before, 3, 27)) + attention


def causalvae_decode_chunked(config, frames: int, height: int, width: int) -> Counter:
    """The same in the temporal chunks of `CausalVAE.decode`."""
    return causalvae_decode(config, frames, height, width, parts=len(chunks(frames)))


# Positions of a CausalVAE layer's kernel, by upstream's names; interpolation and averages over time have none.
_TAPS = {
    "Conv2d": 9,
    "CausalConv3d": 27,
    "ResnetBlock2D": 9,
    "ResnetBlock3D": 27,
    "Downsample": 9,
    "SpatialDownsample2x": 9,
    "Spatial2xTime2x3DDownsample": 27,
    "SpatialUpsample2x": 9,
    "Spatial2xTime2x3DUpsample": 27,
    "TimeDownsample2x": 0,
    "TimeDownsampleRes2x": 27,
    "TimeUpsample2x": 0,
    "TimeUpsampleRes2x": 27,
}


def _widths(config) -> list[int]:
    """Channels of every level of a CausalVAE, from fine to coarse."""
    return [config.hidden_size * mult for mult in config.hidden_size_mult]


def _fewer(frames: int, sampler: str) -> int:
    """Frames behind a sampler of a CausalVAE that may halve their rate."""
    return (frames - 1) // 2 + 1 if "Time" in sampler else frames


def _more(frames: int, sampler: str) -> int:
    return 2 * frames - 1 if "Time" in sampler else frames


def _attention(config, frames: int, area: int) -> Counter:
    return _frame_attention(4 * config.base_channels, frames, area) if config.use_attention else Counter()


def _conv(positions: int, in_channels: int, out_channels: int, taps: int) -> int:
    return 2 * positions * in_channels * out_channels * taps


def _block(positions: int, in_channels: int, out_channels: int, taps: int = 27) -> int:
    """A residual block, by default of 3-D convolutions."""
    count = _conv(positions, in_channels, out_channels, taps) + _conv(positions, out_channels, out_channels, taps)
    return count + (_conv(positions, in_channels, out_channels, 1) if in_channels != out_channels else 0)


def _blocks(positions: int, in_channels: int, out_channels: int, number: int, taps: int = 27) -> int:
    first = _block(positions, in_channels, out_channels, taps)
    return first + (number - 1) * _block(positions, out_channels, out_channels, taps)


def _frame_attention(channels: int, frames: int, area: int) -> Counter:
    """Every frame attends to itself, at the width of the middle."""
    return Counter(
        attention=frames * 4 * area**2 * channels, convolution=4 * _conv(frames * area, channels, channels, 1)
    )
