"""What CausalVAE takes: operations, bytes beside its weights. See mindsora.models.cost."""

from collections import Counter

from mindsora.models.cost import block, conv, decoder_bytes, frame_attention
from mindsora.shapes import chunks

# Positions of a layer's kernel, by upstream's names; interpolation and averages over time have none.
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


def encode(config, frames: int, height: int, width: int) -> Counter:
    """The encoder on a whole clip of pixels: convolution, attention. Chunks cost the same."""
    wide, before, last = _widths(config), config.hidden_size, _widths(config)[-1]
    count = conv(frames * height * width, 3, before, _TAPS[config.encoder_conv_in])
    for level, channels in enumerate(wide):
        taps = _TAPS[config.encoder_resnet_blocks[level]]
        count += _blocks(frames * height * width, before, channels, config.num_res_blocks, taps)
        before = channels
        if space := config.encoder_spatial_downsample[level]:
            frames, height, width = _fewer(frames, space), height // 2, width // 2
            count += conv(frames * height * width, channels, channels, _TAPS[space])
        if time := config.encoder_temporal_downsample[level]:
            frames = _fewer(frames, time)
            count += conv(frames * height * width, channels, channels, _TAPS[time])
    positions, latent = frames * height * width, 2 * config.z_channels
    count += _blocks(positions, last, last, 2) + conv(positions, last, latent, 27)
    count += conv(positions, latent, 2 * config.embed_dim, 1)
    return Counter(convolution=count) + frame_attention(last, frames, height * width)


def decode(config, frames: int, height: int, width: int, parts: int = 1) -> Counter:
    """The decoder on latents, in `parts` chunks: convolution, attention.

    A layer that doubles the frames sees one frame of the next chunk, whose two output frames count again.
    """
    before = last = _widths(config)[-1]
    positions, latent = frames * height * width, config.z_channels
    count = conv(positions, config.embed_dim, latent, 1) + conv(positions, latent, last, 27)
    count += _blocks(positions, last, last, 2)
    attention = frame_attention(last, frames, height * width)
    for level, channels in reversed(list(enumerate(_widths(config)))):
        taps = _TAPS[config.decoder_resnet_blocks[level]]
        count += _blocks(frames * height * width, before, channels, config.num_res_blocks + 1, taps)
        before = channels
        if space := config.decoder_spatial_upsample[level]:
            again = 2 * (parts - 1) if "Time" in space else 0
            frames, height, width = _more(frames, space), 2 * height, 2 * width
            count += conv((frames + again) * height * width, channels, channels, _TAPS[space])
        if time := config.decoder_temporal_upsample[level]:
            frames, again = _more(frames, time), 2 * (parts - 1)
            count += conv((frames + again) * height * width, channels, channels, _TAPS[time])
    return Counter(convolution=count + conv(frames * height * width, before, 3, 27)) + attention


def decode_chunked(config, frames: int, height: int, width: int) -> Counter:
    """The same in the temporal chunks of `CausalVAE.decode`."""
    return decode(config, frames, height, width, parts=len(chunks(frames)))


def decoder_blocks(config) -> int:
    """Residual blocks of the decoder, each a part of its graph."""
    return 2 + len(config.hidden_size_mult) * (config.num_res_blocks + 1)


def memory(config, latents: tuple[int, int, int], size: int, cpu: bool) -> int:
    """Bytes of the decoder at its widest: the second level's channels at full resolution, of the whole clip.

    Chunks go through it layer by layer: memory holds a layer's input and output for all chunks, and the work on one.
    """
    frames, height, width = latents
    stride, area = config.temporal_stride, 64 * height * width
    channels = config.hidden_size * max(config.hidden_size_mult[:2])
    chunk = stride * max(seen - start for start, _, seen in chunks(frames))
    clip = stride * (frames - 1) + 1
    return area * (channels * (2 * size * clip + decoder_bytes(size, cpu) * chunk) + 3 * 4 * clip)


def _widths(config) -> list[int]:
    """Channels of every level from fine to coarse."""
    return [config.hidden_size * mult for mult in config.hidden_size_mult]


def _fewer(frames: int, sampler: str) -> int:
    """Frames after a sampler that may halve their rate."""
    return (frames - 1) // 2 + 1 if "Time" in sampler else frames


def _more(frames: int, sampler: str) -> int:
    return 2 * frames - 1 if "Time" in sampler else frames


def _blocks(positions: int, in_channels: int, out_channels: int, number: int, taps: int = 27) -> int:
    first = block(positions, in_channels, out_channels, taps)
    return first + (number - 1) * block(positions, out_channels, out_channels, taps)
