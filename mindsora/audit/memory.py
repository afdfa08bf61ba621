"""Memory of a clip: weights counted from the Cells; activations modelled from the widest tensors.

benchmarks/plan_memory.py compares with measured peaks: of nano and two middle-sized models on CPU. Nothing of this has
been measured on Ascend.
"""

from collections.abc import Callable
from pathlib import Path

from mindspore.nn.utils import no_init_parameters

from mindsora import ckpt_convert, models
from mindsora.audit.cost import stages
from mindsora.audit.devices import Device
from mindsora.config import read_json
from mindsora.machine import free_memory
from mindsora.nn.precision import set_precision
from mindsora.pipelines import offload
from mindsora.pipelines.components import cell_classes, component_dtypes
from mindsora.shapes import chunks
from mindsora.zoo import ModelIndex

SIZES = {"Float32": 4, "Float16": 2, "BFloat16": 2}
MIB = 2**20

# CPU, MindSpore 2.10: how many of the widest tensors' worth a phase takes at its peak. Fitted to measurements (of the
# denoiser 24 to 31, of the decoder 2.6 to 3.7).
DENOISER_CPU, DECODER_CPU = 30, 3.5
# CPU: what compiled graphs themselves take: at all, and for each layer or block; and each graph of the decoder, for each
# byte of its weights.
GRAPH, TEXT_LAYER, DENOISER_BLOCK, DECODER_BLOCK, DECODER_WEIGHTS = 97 * MIB, 12 * MIB, 10 * MIB, 16 * MIB, 1.1


def build(folder: Path, dtype: str | dict[str, str] | None, kind: str) -> dict[str, object]:
    """The Cells of a model folder in their dtypes, without values; weights need not be there.

    Args:
        kind: "CPU" or "Ascend".

    Raises:
        InputError: a configuration that is wrong, or a dtype the device has not.
    """
    classes, cells = cell_classes(ModelIndex.read(folder)), {}
    dtypes = component_dtypes(dtype, kind, tuple(classes))
    for name, cell_class in classes.items():
        arguments = [read_json(folder / name / "config.json")]
        if cell_class is models.CLIPTextModel and any((folder / name).glob("*.safetensors")):
            arguments.append(ckpt_convert.shapes(folder / name))
        with no_init_parameters():
            cells[name] = set_precision(cell_class.from_upstream(*arguments), dtypes[name])
    return cells


def weights(cell) -> int:
    """Bytes of a Cell's parameters."""
    return _bytes(cell.get_parameters())


def _bytes(parameters) -> int:
    return sum(p.size * SIZES[str(p.dtype)] for p in parameters)


def estimate(
    cells: dict,
    device: Device,
    rows: int,
    tokens: int,
    lengths: tuple[int, ...],
    latents: tuple[int, int, int],
    graphs: dict[str, int],
) -> dict:
    """Bytes by component, the peak, and the peak with offload: where each but the VAE holds one layer of its weights.

    Args:
        cells: as `build` gives them.
        rows: 2 with guidance.
        tokens, lengths: visual tokens, and those of each text encoder.
        latents: latent frames, rows, columns.
        graphs: how many a phase compiles.
    """
    cpu = device.kind == "CPU"
    denoiser, vae = cells["transformer"], cells["vae"]
    active = {
        # SUV's text goes through the feed-forward layers too, v1.3's does not.
        "transformer": _denoiser(denoiser, rows * (tokens + lengths[0] * isinstance(denoiser, models.SUV)), cpu),
        "vae": decoder(vae, latents, cpu),
        "text_encoder": _t5(cells["text_encoder"], rows, lengths[0]),
    }
    if "text_encoder_2" in cells:
        active["text_encoder_2"] = _clip(cells["text_encoder_2"], rows, lengths[1])
    parts = {
        name: {
            "dtype": str(_first(cell).dtype).lower(),
            "weights": weights(cell),
            "held": _bytes(offload.held(cell)) if name != "vae" else weights(cell),
            "activations": active[name],
        }
        for name, cell in cells.items()
    }
    process, process_offload = (
        int(device.process + (_compiled(cells, graphs["decode"], layers) if cpu else 0))
        for layers in (_depth, offload.kinds)
    )
    all_weights, all_held = (sum(part[which] for part in parts.values()) for which in ("weights", "held"))
    t5 = cells["text_encoder"].config  # outside of graphs the output of every block lives until the last
    states = 4 * rows * lengths[0] * t5.d_model * (t5.num_layers + 1)
    return {
        "components": parts,
        "process": process,
        "peak": process + all_weights + max(active.values()),
        "peak_offload": process_offload + all_held + max(*active.values(), active["text_encoder"] + states),
        "available": free_memory() if device.memory is None else device.memory,
    }


def _denoiser(cell, streams: int, cpu: bool) -> int:
    """A denoiser at its widest: inside the feed-forward layer, which is four times as wide, GELU in float32.

    There exist its input in float32 and two intermediate results, the stream, and what SUV's skips keep.
    """
    config, size = cell.config, SIZES[str(_first(cell).dtype)]
    elements = streams * config.dim
    skips = len(config.num_layers) // 2 if isinstance(cell, models.SUV) else 0
    return elements * (DENOISER_CPU * size if cpu else 3 * 4 * 4 + (2 + skips) * size)


def decoder(cell, latents: tuple[int, int, int], cpu: bool) -> int:
    """Bytes that an autoencoder's decoder takes beside its weights. latents: frames, rows, columns."""
    return (_causal_decoder if isinstance(cell, models.CausalVAE) else _wavelet_decoder)(cell, latents, cpu)


def _wavelet_decoder(cell, latents: tuple[int, int, int], cpu: bool) -> int:
    """WF-VAE's decoder at its widest, 2 C channels at half the resolution, and its pixels; in the longest chunk.

    There exist a block's input, a convolution's input, padded and not, and output; or a norm's three in float32.
    """
    config, size = cell.config, SIZES[str(_first(cell).dtype)]
    frames, height, width = latents
    first, *later = (seen - start for start, _, seen in chunks(frames))
    later = max(later, default=0)

    def longest(stride: int) -> int:  # frames where a latent frame is `stride` of them, but for the clip's first
        return max(stride * (first - 1) + 1, stride * later)

    widest = longest(config.temporal_stride // 2) * 16 * height * width * 2 * config.base_channels  # elements
    pixels = 3 * longest(config.temporal_stride) * 64 * height * width
    return widest * _held(size, cpu) + 3 * 4 * pixels


def _held(size: int, cpu: bool) -> int:
    """Bytes that a decoder's widest layer holds for each of its elements of `size` bytes."""
    return int(DECODER_CPU * size) if cpu else max(6 * size, size + 12)


def _causal_decoder(cell, latents: tuple[int, int, int], cpu: bool) -> int:
    """CausalVAE's decoder at its widest: the second level's channels at full resolution, of the whole clip.

    Chunks go through it layer by layer: there exist a layer's input and output of all of them, and the work on one.
    """
    config, size = cell.config, SIZES[str(_first(cell).dtype)]
    frames, height, width = latents
    stride, area = config.temporal_stride, 64 * height * width
    channels = config.hidden_size * max(config.hidden_size_mult[:2])
    chunk = stride * max(seen - start for start, _, seen in chunks(frames))
    clip = stride * (frames - 1) + 1
    return area * (channels * (2 * size * clip + _held(size, cpu) * chunk) + 3 * 4 * clip)


def _t5(cell, rows: int, length: int) -> int:
    """Scores of all heads: position bias, scores, their sum, softmax, in float32; or the gated feed-forward layer."""
    config = cell.config
    return 4 * rows * max(4 * config.num_heads * length**2, 5 * length * config.d_ff)


def _clip(cell, rows: int, length: int) -> int:
    config = cell.config
    return 4 * rows * max(4 * config.num_attention_heads * length**2, 5 * length * config.intermediate_size)


def _compiled(cells: dict, decoders: int, layers: Callable) -> float:
    """What the graphs of a call take on CPU beside weights and activations. layers: how many of a Cell are compiled."""
    text = sum(layers(cells[name]) for name in ("text_encoder", "text_encoder_2") if name in cells)
    vae = cells["vae"].config
    if isinstance(cells["vae"], models.CausalVAE):
        blocks = 2 + len(vae.hidden_size_mult) * (vae.num_res_blocks + 1)
    else:
        blocks = 6 + 2 * vae.decoder_num_resblocks + 2 * vae.connect_res_layer_num
    decoder = DECODER_BLOCK * blocks + decoders * DECODER_WEIGHTS * weights(cells["vae"].decoder)
    return 2 * GRAPH + TEXT_LAYER * text + DENOISER_BLOCK * layers(cells["transformer"]) + decoder


def _depth(cell) -> int:
    """Blocks of a text encoder or denoiser."""
    if isinstance(cell, models.CLIPTextModel):
        return cell.config.num_hidden_layers
    if isinstance(cell, models.T5Encoder):
        return cell.config.num_layers
    return sum(blocks for blocks, _ in stages(cell.config))


def _first(cell):
    return next(cell.get_parameters())
