"""Floating-point operations, counted from configurations. A multiply-add counts as two.

Matrix products and convolutions are counted, as they run here; norms, activations and Haar sums are not (below 1 % of a
released model). Every count is of one row; guidance runs the text encoders and the denoiser on two.
"""

from collections import Counter

from mindsora.shapes import chunks


def padded(tokens: int, sparse_n: int) -> int:
    """Visual tokens after skiparse padding: the next multiple of n^2 (none is added where n is 1)."""
    return -(-tokens // sparse_n**2) * sparse_n**2


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
    for stage, (blocks, sparse_n) in enumerate(zip(config.num_layers, config.sparse_n)):
        n = 1 if dense else sparse_n
        group = padded(tokens, n) // n
        for block in range(blocks):
            last = (stage, block) == (len(config.num_layers) - 1, config.num_layers[-1] - 1)
            answers = not last or config.last_block_text                         # text is updated too
            count["attention"] += n * 4 * (group + text * answers) * (group + text) * c
            count["linear"] += 2 * tokens * 12 * c * c                           # q, k, v, out and the feed-forward's 8
            count["linear"] += 2 * text * (12 if answers else 2) * c * c         # the last block's text: k and v
            count["other"] += 2 * 12 * e * c                                     # two modulations of 6 C
    count["skip"] += (len(config.num_layers) // 2) * 2 * (tokens + text) * 2 * c * c
    patch = config.patch_size**2
    count["other"] += 2 * tokens * c * patch * (config.in_channels + config.out_channels)
    count["other"] += 2 * text * config.caption_channels * c
    count["other"] += 2 * e * (3 * e + config.pooled_projection_dim) + 2 * 2 * e * c  # time and pooled text; norm_out
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
    return Counter(attention=config.num_hidden_layers * 4 * length**2 * width,
                   linear=config.num_hidden_layers * linear + 2 * width * config.projection_dim)


def vae_encode(config, frames: int, height: int, width: int) -> Counter:
    """WF-VAE's encoder on a whole clip of pixels: convolution, attention."""
    c, flow, n = config.base_channels, config.encoder_energy_flow_hidden_size, config.encoder_num_resblocks
    temporal = config.temporal_stride == 8
    t1 = (frames - 1) // 2 + 1                                                   # behind the first Haar transform
    t2 = (t1 - 1) // 2 + 1 if temporal else t1
    t3 = (t2 - 1) // 2 + 1
    h, w = height // 2, width // 2
    p1, p2, p3 = t1 * h * w, t2 * (h // 2) * (w // 2), t3 * (h // 4) * (w // 4)
    count = _conv(p1, 24, c, 9) + n * 2 * _conv(p1, c, c, 9) + _conv(p2, c, c, 27 if temporal else 9)
    count += _conv(p2, 24 if temporal else 12, flow, 9) + _conv(p2, c + flow, 2 * c, 9)
    count += n * _block(p2, 2 * c, 2 * c) + _conv(p3, 2 * c, 2 * c, 27)
    count += _conv(p3, 24, flow, 9) + _block(p3, 2 * c + flow, 4 * c) + _block(p3, 4 * c, 4 * c)
    count += _conv(p3, 4 * c, 2 * config.latent_dim, 27)
    return Counter(convolution=count) + _vae_attention(config, t3, (h // 4) * (w // 4))


def vae_decode(config, frames: int, height: int, width: int, first: bool = True) -> Counter:
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
    return Counter(convolution=count) + _vae_attention(config, frames, area)


def vae_decode_chunked(config, frames: int, height: int, width: int) -> Counter:
    """The same in the temporal chunks of `WFVAE.decode`: most carry a latent frame of look-ahead that counts again."""
    count = Counter()
    for start, _, seen in chunks(frames):
        count += vae_decode(config, seen - start, height, width, first=start == 0)
    return count


def _conv(positions: int, in_channels: int, out_channels: int, taps: int) -> int:
    return 2 * positions * in_channels * out_channels * taps


def _block(positions: int, in_channels: int, out_channels: int) -> int:
    """A ResnetBlock3D."""
    count = _conv(positions, in_channels, out_channels, 27) + _conv(positions, out_channels, out_channels, 27)
    return count + (_conv(positions, in_channels, out_channels, 1) if in_channels != out_channels else 0)


def _vae_attention(config, frames: int, area: int) -> Counter:
    """Every frame attends to itself, at the width of the middle."""
    if not config.use_attention:
        return Counter()
    width = 4 * config.base_channels
    return Counter(attention=frames * 4 * area**2 * width, convolution=4 * _conv(frames * area, width, width, 1))
