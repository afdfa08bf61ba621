"""What WF-VAE takes: operations, bytes beside its weights. See mindsora.models.cost."""

from collections import Counter

from mindsora.models.cost import block, conv, decoder_bytes, frame_attention
from mindsora.shapes import chunks


def encode(config, frames: int, height: int, width: int) -> Counter:
    """The encoder on a whole clip of pixels: convolution, attention."""
    c, flow, n = config.base_channels, config.encoder_energy_flow_hidden_size, config.encoder_num_resblocks
    temporal = config.temporal_stride == 8
    t1 = (frames - 1) // 2 + 1  # after the first Haar transform
    t2 = (t1 - 1) // 2 + 1 if temporal else t1
    t3 = (t2 - 1) // 2 + 1
    h, w = height // 2, width // 2
    p1, p2, p3 = t1 * h * w, t2 * (h // 2) * (w // 2), t3 * (h // 4) * (w // 4)
    count = conv(p1, 24, c, 9) + n * 2 * conv(p1, c, c, 9) + conv(p2, c, c, 27 if temporal else 9)
    count += conv(p2, 24 if temporal else 12, flow, 9) + conv(p2, c + flow, 2 * c, 9)
    count += n * block(p2, 2 * c, 2 * c) + conv(p3, 2 * c, 2 * c, 27)
    count += conv(p3, 24, flow, 9) + block(p3, 2 * c + flow, 4 * c) + block(p3, 4 * c, 4 * c)
    count += conv(p3, 4 * c, 2 * config.latent_dim, 27)
    return Counter(convolution=count) + _attention(config, t3, (h // 4) * (w // 4))


def decode(config, frames: int, height: int, width: int, first: bool = True) -> Counter:
    """The decoder on latents in one go: convolution, attention. A later chunk (not `first`) doubles all frames."""
    c, flow, n = config.base_channels, config.decoder_energy_flow_hidden_size, config.decoder_num_resblocks
    temporal, depth = config.temporal_stride == 8, config.connect_res_layer_num
    t2 = 2 * frames - first
    t3 = 2 * t2 - first if temporal else t2
    area = height * width
    p1, p2, p3 = frames * area, t2 * 4 * area, t3 * 16 * area
    count = conv(p1, config.latent_dim, 4 * c, 27) + block(p1, 4 * c, 4 * c) + block(p1, 4 * c, 4 * c + flow)
    count += depth * block(p1, flow, flow) + conv(p1, flow, 24, 9) + n * block(p1, 4 * c, 4 * c)
    count += conv(p2, 4 * c, 4 * c, 27) + block(p2, 4 * c, 4 * c + flow)
    count += depth * block(p2, flow, flow) + conv(p2, flow, 24 if temporal else 12, 9)
    count += block(p2, 4 * c, 2 * c) + (n - 1) * block(p2, 2 * c, 2 * c)
    count += conv(p3, 2 * c, 2 * c, 27 if temporal else 9) + block(p3, 2 * c, 2 * c)
    count += block(p3, 2 * c, c) + block(p3, c, c) + conv(p3, c, 24, 9)
    return Counter(convolution=count) + _attention(config, frames, area)


def decode_chunked(config, frames: int, height: int, width: int) -> Counter:
    """The same in the temporal chunks of `WFVAE.decode`: most carry a latent frame of look-ahead that counts again."""
    count = Counter()
    for start, _, seen in chunks(frames):
        count += decode(config, seen - start, height, width, first=start == 0)
    return count


def decoder_blocks(config) -> int:
    """Residual blocks of the decoder, each a part of its graph."""
    return 6 + 2 * config.decoder_num_resblocks + 2 * config.connect_res_layer_num


def memory(config, latents: tuple[int, int, int], size: int, cpu: bool) -> int:
    """Bytes of the decoder at its widest, 2 C channels at half the resolution, and its pixels; in the longest chunk.

    Memory holds a block's input, a convolution's input, padded and not, and output; or a norm's three in float32.
    """
    frames, height, width = latents
    first, *later = (seen - start for start, _, seen in chunks(frames))
    later = max(later, default=0)

    def longest(stride: int) -> int:  # frames at `stride` frames per latent frame, except the clip's first
        return max(stride * (first - 1) + 1, stride * later)

    widest = longest(config.temporal_stride // 2) * 16 * height * width * 2 * config.base_channels  # elements
    pixels = 3 * longest(config.temporal_stride) * 64 * height * width
    return widest * decoder_bytes(size, cpu) + 3 * 4 * pixels


def _attention(config, frames: int, area: int) -> Counter:
    return frame_attention(4 * config.base_channels, frames, area) if config.use_attention else Counter()
