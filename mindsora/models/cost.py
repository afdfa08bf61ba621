"""What the models' `cost.py` have in common. The planner and the claims call these functions of theirs:

    denoiser        operations(config, tokens, text) -> Counter; stages(config) -> [(blocks, sparse_n)];
                    dense(config) -> the configuration with full attention;
                    memory(config, rows, tokens, text, size, cpu, tp);
                    exchanges(config, cp, tp, rows, tokens, text, size, trains) -> Counter, see mindsora.models.exchanges
    autoencoder     encode(config, frames, height, width), decode(config, t, h, w), decode_chunked(config, t, h, w) ->
                    Counter; decoder_blocks(config); memory(config, (t, h, w), size, cpu), of the decoder
    text encoder    operations(config, length) -> Counter; depth(config); memory(config, rows, length)

Operations are floating-point operations of one row: guidance runs the text encoders and the denoiser on two. A
multiply-add counts as two. Matrix products and convolutions are counted, as they run here; norms, activations and Haar
sums are not (below 1 % of a released model). A Counter has a key for each kind, `attention` among them.

Memory is in bytes, of activations at their widest: a model, not a measurement. `size` is bytes of a number in the
model's dtype. benchmarks/plan_memory.py compares with measured peaks: of nano and two middle-sized models on CPU. None of
this has been measured on Ascend.
"""

from collections import Counter

# CPU, MindSpore 2.10: a phase's peak memory in units of its widest tensor. Fitted to measurements (of the
# denoiser 24 to 31, of the decoder 2.6 to 3.7).
DENOISER_CPU, DECODER_CPU = 30, 3.5


def conv(positions: int, in_channels: int, out_channels: int, taps: int) -> int:
    """A convolution whose kernel has `taps` positions."""
    return 2 * positions * in_channels * out_channels * taps


def block(positions: int, in_channels: int, out_channels: int, taps: int = 27) -> int:
    """A residual block, by default of 3-D convolutions."""
    count = conv(positions, in_channels, out_channels, taps) + conv(positions, out_channels, out_channels, taps)
    return count + (conv(positions, in_channels, out_channels, 1) if in_channels != out_channels else 0)


def frame_attention(channels: int, frames: int, area: int) -> Counter:
    """Every frame attends to itself, at the width of the middle."""
    return Counter(
        attention=frames * 4 * area**2 * channels, convolution=4 * conv(frames * area, channels, channels, 1)
    )


def feed_forward_bytes(elements: int, size: int, cpu: bool, kept: int = 0, tp: int = 1) -> int:
    """A denoiser at its widest: inside the feed-forward layer, which is four times as wide, GELU in float32.

    Memory holds its input in float32 and two intermediate results, the stream, and `kept` earlier streams.
    """
    return elements * (DENOISER_CPU * size if cpu else 3 * 4 * 4 // tp + (2 + kept) * size)


def decoder_bytes(size: int, cpu: bool) -> int:
    """Memory that a decoder's widest layer holds for each of its elements."""
    return int(DECODER_CPU * size) if cpu else max(6 * size, size + 12)
