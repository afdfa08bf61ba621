"""Memory of a clip: weights counted from the Cells; activations modelled from the widest tensors.

benchmarks/plan_memory.py compares with measured peaks: of nano and two middle-sized models on CPU. None of this
has been measured on Ascend.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from mindspore import Parameter
from mindspore.nn.utils import no_init_parameters

from mindsora import ckpt_convert
from mindsora.audit.devices import Device
from mindsora.config import read_json
from mindsora.machine import free_memory
from mindsora.models import registry
from mindsora.nn.precision import set_precision
from mindsora.pipelines import offload
from mindsora.pipelines.components import cell_specs, component_dtypes
from mindsora.zoo import ModelIndex

SIZES = {"Float32": 4, "Float16": 2, "BFloat16": 2}
MIB = 2**20

# CPU: memory of compiled graphs themselves: a constant, and an amount per layer or block; and of each decoder graph, per
# byte of its weights.
GRAPH, TEXT_LAYER, DENOISER_BLOCK, DECODER_BLOCK, DECODER_WEIGHTS = 97 * MIB, 12 * MIB, 10 * MIB, 16 * MIB, 1.1


def build(folder: Path, dtype: str | dict[str, str] | None, kind: str) -> dict[str, object]:
    """The Cells of a model folder in their dtypes, without values; weights need not be there.

    Args:
        kind: "CPU" or "Ascend".

    Raises:
        InputError: a configuration that is wrong, or a dtype the device does not support.
    """
    specs, cells = cell_specs(ModelIndex.read(folder)), {}
    dtypes = component_dtypes(dtype, kind, tuple(specs))
    for name, spec in specs.items():
        arguments = [read_json(folder / name / "config.json")]
        if spec.shapes_decide and any((folder / name).glob("*.safetensors")):
            arguments.append(ckpt_convert.shapes(folder / name))
        with no_init_parameters():
            cells[name] = set_precision(spec.cell.from_upstream(*arguments), dtypes[name])
    return cells


def weights(cell, tp: int = 1) -> int:
    """Bytes of a Cell's parameters on each of so many tensor-parallel ranks."""
    return _bytes(cell.get_parameters()) if tp == 1 else sum(n * SIZES[str(p.dtype)] for p, n in shares(cell, tp))


def shares(cell, tp: int) -> Iterator[tuple[Parameter, int]]:
    """Every parameter, and how many numbers of it each tensor-parallel rank has."""
    spec = registry.spec_of(cell)
    for parameter in cell.get_parameters():
        shared = spec.is_sharded and spec.sharding.axis(spec.names.upstream_name(parameter.name)) is not None
        yield parameter, parameter.size // tp if shared else parameter.size


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
    """Bytes by component, the peak, and the peak with offload, where all but the VAE hold one layer of weights.

    Args:
        cells: as `build` gives them.
        rows: 2 with guidance.
        tokens, lengths: visual tokens, and those of each text encoder.
        latents: latent frames, rows, columns that the autoencoder decodes at a time: of a tile.
        graphs: how many a phase compiles.
    """
    cpu = device.kind == "CPU"
    transformer = cells["transformer"]
    cost = registry.spec_of(transformer).cost
    active = {
        "transformer": cost.memory(transformer.config, rows, tokens, lengths[0], number(transformer), cpu),
        "vae": decoder(cells["vae"], latents, cpu),
    }
    for (name, encoder), length in zip(_text_encoders(cells).items(), lengths):
        active[name] = registry.spec_of(encoder).cost.memory(encoder.config, rows, length)
    parts = {
        name: {
            "dtype": str(_first(cell).dtype).lower(),
            "weights": weights(cell),
            "held": _bytes(offload.held(cell)) if _is_streamed(cell) else weights(cell),
            "activations": active[name],
        }
        for name, cell in cells.items()
    }
    process, process_offload = (
        int(device.process + (_compiled(cells, graphs["decode"], layers) if cpu else 0))
        for layers in (_depth, offload.kinds)
    )
    all_weights, all_held = (sum(part[which] for part in parts.values()) for which in ("weights", "held"))
    # Outside graphs, the output of every block stays in memory until the last block.
    states = 4 * rows * lengths[0] * cells["text_encoder"].config.d_model * (_depth(cells["text_encoder"]) + 1)
    return {
        "components": parts,
        "process": process,
        "peak": process + all_weights + max(active.values()),
        "peak_offload": process_offload + all_held + max(*active.values(), active["text_encoder"] + states),
        "available": free_memory() if device.memory is None else device.memory,
    }


def decoder(cell, latents: tuple[int, int, int], cpu: bool) -> int:
    """Bytes that an autoencoder's decoder takes beside its weights. latents: frames, rows, columns."""
    return registry.spec_of(cell).cost.memory(cell.config, latents, number(cell), cpu)


def _compiled(cells: dict, decoders: int, layers: Callable) -> float:
    """CPU memory of the graphs of a call, beside weights and activations. layers: how many of a Cell are compiled."""
    text = sum(layers(cell) for cell in _text_encoders(cells).values())
    vae = cells["vae"]
    blocks = registry.spec_of(vae).cost.decoder_blocks(vae.config)
    decoder = DECODER_BLOCK * blocks + decoders * DECODER_WEIGHTS * weights(vae.decoder)
    return 2 * GRAPH + TEXT_LAYER * text + DENOISER_BLOCK * layers(cells["transformer"]) + decoder


def _text_encoders(cells: dict) -> dict:
    return {name: cells[name] for name in ("text_encoder", "text_encoder_2") if name in cells}


def _depth(cell) -> int:
    """Blocks of a text encoder or denoiser."""
    spec = registry.spec_of(cell)
    if spec.component == "transformer":
        return sum(blocks for blocks, _ in spec.cost.stages(cell.config))
    return spec.cost.depth(cell.config)


def _is_streamed(cell) -> bool:
    return bool(registry.spec_of(cell).streamed_layers)


def _first(cell):
    return next(cell.get_parameters())


def number(cell) -> int:
    """Bytes of a number in a Cell's dtype."""
    return SIZES[str(_first(cell).dtype)]
