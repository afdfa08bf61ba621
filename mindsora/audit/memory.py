"""Memory of a clip: weights counted from the Cells; activations modelled from the widest tensors.

benchmarks/plan_memory.py compares with measured peaks: of nano and two middle-sized models on CPU. Nothing of this has
been measured on Ascend.
"""

from pathlib import Path

from mindspore.nn.utils import no_init_parameters

from mindsora import ckpt_convert
from mindsora.audit.devices import Device
from mindsora.audit.machine import free_memory
from mindsora.config import read_json
from mindsora.models import CLIPTextModel
from mindsora.nn.precision import set_precision
from mindsora.pipelines.components import CELLS, component_dtypes
from mindsora.shapes import chunks

SIZES = {"Float32": 4, "Float16": 2, "BFloat16": 2}
MIB = 2**20

# CPU, MindSpore 2.10: how many of the widest tensors' worth a phase takes at its peak. Fitted to measurements (of the
# decoder: 15 to 18); about three times what the code itself keeps alive, and the same without `keep_freed_memory`.
DENOISER_CPU, DECODER_CPU = 45, 17
# CPU: what a compiled graph itself takes: at all, for each layer or block, and for each byte of convolution weights.
GRAPH, TEXT_LAYER, DENOISER_BLOCK, DECODER_BLOCK, DECODER_WEIGHTS = 97 * MIB, 12 * MIB, 10 * MIB, 21 * MIB, 2.3


def build(folder: Path, dtype: str | dict[str, str] | None, kind: str) -> dict[str, object]:
    """The Cells of a model folder in their dtypes, without values; weights need not be there.

    Args:
        kind: "CPU" or "Ascend".

    Raises:
        InputError: a configuration that is wrong, or a dtype the device has not.
    """
    dtypes, cells = component_dtypes(dtype, kind), {}
    for name, cell_class in CELLS.items():
        arguments = [read_json(folder / name / "config.json")]
        if cell_class is CLIPTextModel and any((folder / name).glob("*.safetensors")):
            arguments.append(ckpt_convert.shapes(folder / name))
        with no_init_parameters():
            cells[name] = set_precision(cell_class.from_upstream(*arguments), dtypes[name])
    return cells


def weights(cell) -> int:
    """Bytes of a Cell's parameters."""
    return sum(p.size * SIZES[str(p.dtype)] for p in cell.get_parameters())


def estimate(
    cells: dict, device: Device, rows: int, tokens: int, lengths: tuple[int, int], latents: tuple[int, int, int],
    graphs: dict[str, int],
) -> dict:
    """Bytes by component, the peak, and the peak where only the component at work holds its weights (offload).

    Args:
        cells: as `build` gives them.
        rows: 2 with guidance.
        tokens, lengths: visual tokens, and those of the two text encoders.
        latents: latent frames, rows, columns.
        graphs: how many a phase compiles.
    """
    cpu = device.kind == "CPU"
    active = {
        "transformer": _denoiser(cells["transformer"], rows * (tokens + lengths[0]), cpu),
        "vae": _decoder(cells["vae"], latents, cpu),
        "text_encoder": _t5(cells["text_encoder"], rows, lengths[0]),
        "text_encoder_2": _clip(cells["text_encoder_2"], rows, lengths[1]),
    }
    parts = {name: {"dtype": str(_first(cell).dtype).lower(), "weights": weights(cell), "activations": active[name]}
             for name, cell in cells.items()}
    process = int(device.process + (_compiled(cells, graphs["decode"]) if cpu else 0))
    phases = (("text_encoder", "text_encoder_2"), ("transformer",), ("vae",))
    all_weights = sum(part["weights"] for part in parts.values())
    return {
        "components": parts,
        "process": process,
        "peak": process + all_weights + max(active.values()),
        "peak_offload": process + max(sum(parts[n]["weights"] for n in names) + max(active[n] for n in names)
                                      for names in phases),
        "available": free_memory() if device.memory is None else device.memory,
    }


def _denoiser(cell, streams: int, cpu: bool) -> int:
    """SUV at its widest: inside the feed-forward layer, which is four times as wide, GELU in float32.

    There exist its input in float32 and two intermediate results, the stream, and what the U's skips keep.
    """
    config, size = cell.config, SIZES[str(_first(cell).dtype)]
    elements = streams * config.dim
    return elements * (DENOISER_CPU * size if cpu else 3 * 4 * 4 + (2 + len(config.num_layers) // 2) * size)


def _decoder(cell, latents: tuple[int, int, int], cpu: bool) -> int:
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
    return widest * (DECODER_CPU * size if cpu else max(6 * size, size + 12)) + 3 * 4 * pixels


def _t5(cell, rows: int, length: int) -> int:
    """Scores of all heads: position bias, scores, their sum, softmax, in float32; or the gated feed-forward layer."""
    config = cell.config
    return 4 * rows * max(4 * config.num_heads * length**2, 5 * length * config.d_ff)


def _clip(cell, rows: int, length: int) -> int:
    config = cell.config
    return 4 * rows * max(4 * config.num_attention_heads * length**2, 5 * length * config.intermediate_size)


def _compiled(cells: dict, decoders: int) -> float:
    """What the graphs of a call take on CPU beside weights and activations."""
    text = cells["text_encoder"].config.num_layers + cells["text_encoder_2"].config.num_hidden_layers
    vae = cells["vae"].config
    blocks = 6 + 2 * vae.decoder_num_resblocks + 2 * vae.connect_res_layer_num
    decoder = DECODER_BLOCK * blocks + DECODER_WEIGHTS * weights(cells["vae"].decoder)
    denoiser = DENOISER_BLOCK * sum(cells["transformer"].config.num_layers)
    return 2 * GRAPH + TEXT_LAYER * text + denoiser + decoders * decoder


def _first(cell):
    return next(cell.get_parameters())
