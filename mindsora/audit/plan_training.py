"""What a stage's training will cost in its published layout: tokens and operations counted; memory and time modelled."""

import math
from collections.abc import Iterator

from mindsora.audit.devices import DEVICES, GIB, Device
from mindsora.audit.plan import MODEL, scaled
from mindsora.data.sizes import min_max_sizes
from mindsora.errors import InputError
from mindsora.models import registry
from mindsora.shapes import ShapeRules
from mindsora.train.recipe import StageRecipe
from mindsora.zoo import ModelIndex, configuration

# Forward once, backward twice; recomputation is a second forward pass.
PASSES = 4
# Bytes that a block keeps per token and channel without recomputation, in half precision with fused attention
# (Korthikanti et al., arXiv 2205.05198, equation 1, of whose terms dropout's are kept as reserve).
KEPT = 34
MOST_CARDS = 2**16


def plan_training(recipe: StageRecipe, device: str) -> dict:
    """Tokens, operations, memory per card and time, as JSON has it.

    Args:
        device: one of DEVICES; a card.

    Raises:
        InputError: an unknown device, or a transformer that does not fit the encoders.
    """
    if device not in DEVICES or DEVICES[device].memory is None:
        cards = [name for name, card in DEVICES.items() if card.memory is not None]
        raise InputError(f"device {device!r}: a training plan is for one of {', '.join(cards)}")

    from mindspore.nn.utils import no_init_parameters

    from mindsora.audit import memory  # imports MindSpore
    from mindsora.train.model_folder import transformer_config

    card, folder = DEVICES[device], _folder(recipe)
    cells = memory.build(folder, None, card.kind)
    del cells["transformer"]
    config = {name: cell.config for name, cell in cells.items()}
    with no_init_parameters():
        transformer = registry.spec(recipe.model).cell.from_upstream(transformer_config(recipe, config))
    index = ModelIndex.read(folder)
    shapes = [_shape(recipe, index, transformer, config, size) for size in _sizes(recipe)]
    largest = max(shapes, key=lambda shape: shape["tokens"])
    found = {
        "model": recipe.model,
        "parameters": sum(p.size for p in transformer.get_parameters()),
        "device": device,
        "layout": {
            "cards": recipe.layout.cards,
            "tensor_parallel": recipe.layout.tensor_parallel,
            "data_ranks": recipe.layout.data_ranks,
            "zero": recipe.layout.zero,
            "clips_per_card": recipe.data.batch,
            "batch": recipe.layout.batch,
        },
        "shapes": shapes,
        "tokens_per_step": largest["tokens"] * recipe.layout.batch,
        "flops_per_step": {key: value * recipe.layout.batch for key, value in largest["flops"].items()},
        "steps": recipe.run.steps,
    }
    encoders = sum(memory.weights(cell) for cell in cells.values())
    found["memory"] = _memory(recipe, transformer, config, largest, index.max_text_lengths[0], encoders, card)
    seconds = _seconds(found["flops_per_step"], recipe.layout.cards, card)
    found["time"] = {"basis": MODEL, "step": seconds, "run_days": seconds * recipe.run.steps / 86_400}
    return found


def _folder(recipe: StageRecipe):
    try:
        return configuration(recipe.encoders)
    except InputError:
        # The published model of this kind: its encoders are counted while the folder that the recipe names is not there.
        return configuration(recipe.line + ("_i2v" if registry.spec(recipe.model).takes_frames else ""))


def _sizes(recipe: StageRecipe) -> list[tuple[int, int]]:
    """(height, width) of the buckets: the fixed size, the five, or the square one of those of any ratio."""
    data = recipe.data
    if data.size:
        return [tuple(data.size)]
    if data.five_ratios:
        return list(min_max_sizes(data.max_pixels).values())
    side = int(math.sqrt(data.max_pixels)) // data.pixel_stride * data.pixel_stride
    return [(side, side)]


def _shape(recipe: StageRecipe, index: ModelIndex, transformer, config: dict, size: tuple[int, int]) -> dict:
    """Tokens and operations of one clip of this size in a step."""
    frames, (height, width) = recipe.data.frames, size
    tokens = ShapeRules(index.vae_stride, transformer.config.patch_size, frames, height, width).tokens(
        frames, height, width
    )
    cost = registry.spec_of(transformer).cost
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in config]
    text = (
        _cost(index, name).operations(config[name], length).total()
        for name, length in zip(encoders, index.max_text_lengths)
    )
    encodings = 2 if recipe.masks else 1  # the clip, and the clip with hidden frames
    return {
        "frames": frames,
        "height": height,
        "width": width,
        "tokens": tokens,
        "flops": {
            "denoiser": PASSES * cost.operations(transformer.config, tokens, index.max_text_lengths[0]).total(),
            "text_encoders": sum(text),
            "vae_encode": encodings * _cost(index, "vae").encode(config["vae"], frames, height, width).total(),
        },
    }


def _cost(index: ModelIndex, component: str):
    return registry.spec(index.components[component]).cost


def _memory(
    recipe: StageRecipe, transformer, config: dict, shape: dict, text: int, encoders: int, card: Device
) -> dict:
    """Bytes of one card by component, and the fewest cards that hold the run.

    Args:
        shape: the largest.
        text: tokens of text.
        encoders: bytes of their weights.
    """
    layout, cost = recipe.layout, registry.spec_of(transformer).cost
    local = _parameters_per_card(transformer, layout.tensor_parallel)
    net, rows = transformer.config, recipe.data.batch
    stream = rows * (shape["tokens"] + text) * net.dim
    blocks = sum(count for count, _ in cost.stages(net))
    widest = cost.memory(net, rows, shape["tokens"], text, 2, False)
    encoding = rows * _widest_of_encoder(config["vae"], shape)

    def parts(ranks: int) -> dict[str, int]:
        return {
            "weights": 2 * local,
            "gradients": 4 * local // (ranks if layout.zero == 2 else 1),
            "optimizer_and_ema": 16 * local // ranks,  # float32: masters, two moments, the moving average
            "encoders": encoders,
            # Tensor parallelism shares the tokens outside the layers too; the encoders run before the step.
            "activations": max((2 * stream * blocks + widest) // layout.tensor_parallel, encoding),
        }

    own = parts(layout.data_ranks)
    fitting = (ranks for ranks in _powers() if sum(parts(ranks).values()) <= card.memory)
    least = next(fitting, None)
    without = max((KEPT * stream * blocks + widest) // layout.tensor_parallel, encoding)
    return {
        "basis": MODEL,
        "parts": own,
        "total": sum(own.values()),
        "activations_without_recomputation": without,
        "card": card.memory,
        "fewest_cards": None if least is None else least * layout.tensor_parallel,
    }


def _parameters_per_card(transformer, tensor_parallel: int) -> int:
    spec = registry.spec_of(transformer)
    count = 0
    for parameter in transformer.get_parameters():
        shared = spec.is_sharded and spec.sharding.axis(spec.names.upstream_name(parameter.name)) is not None
        count += parameter.size // tensor_parallel if shared else parameter.size
    return count


def _widest_of_encoder(vae, shape: dict) -> int:
    """Bytes of one clip inside the encoder at half resolution: three float32 tensors, and a convolution's padded input."""
    frames = (shape["frames"] - 1) // 2 + 1 if vae.temporal_stride == 8 else shape["frames"]
    return 4 * 4 * vae.base_channels * frames * (shape["height"] // 2) * (shape["width"] // 2)


def _powers() -> Iterator[int]:
    return (2**power for power in range(MOST_CARDS.bit_length()))


def _seconds(flops: dict[str, int], cards: int, card: Device) -> float:
    """Of a step: the autoencoder computes in float32."""
    half = flops["denoiser"] + flops["text_encoders"]
    return (half / card.half + flops["vae_encode"] / card.single) / cards


def describe_training(found: dict) -> str:
    """The plan as readable text."""
    layout, memory, flops = found["layout"], found["memory"], found["flops_per_step"]
    lines = [
        f"{found['model']}, {found['parameters'] / 1e9:.2f} B parameters; {found['steps']:,} steps of "
        f"{layout['batch']:,} clips",
        f"layout      {layout['cards']} cards: {layout['data_ranks']} data ranks x {layout['tensor_parallel']} tensor "
        f"parallel, {layout['clips_per_card']} clips at a time, ZeRO-{layout['zero']}",
        "shapes      frames x height x width     tokens   FLOP of a clip (forward, backward, recomputation)",
    ]
    lines += [
        f"            {shape['frames']:6} x {shape['height']:6} x {shape['width']:5} {shape['tokens']:10,}   "
        f"{scaled(shape['flops']['denoiser'], '')}"
        for shape in found["shapes"]
    ]
    lines += [
        f"step        {found['tokens_per_step']:,} visual tokens; {scaled(sum(flops.values()), 'FLOP')}: "
        + ", ".join(f"{name.replace('_', ' ')} {scaled(value, '')}" for name, value in flops.items()),
        f"memory      GiB on a card ({MODEL})",
        *(f"            {name.replace('_', ' '):20} {value / GIB:8.2f}" for name, value in memory["parts"].items()),
        f"            {'total':20} {memory['total'] / GIB:8.2f} of {memory['card'] / GIB:.0f} on a {found['device']}; "
        f"without recomputation the activations take {memory['activations_without_recomputation'] / GIB:.2f}",
        "cards       "
        + (
            f"this layout holds the run on {memory['fewest_cards']} cards or more"
            if memory["fewest_cards"]
            else f"no number of {found['device']} cards holds this layout; share the layers of a model between more"
        ),
        f"time        {found['time']['step']:.2f} s a step, {found['time']['run_days']:.1f} days on {layout['cards']} "
        f"{found['device']} ({MODEL})",
    ]
    return "\n".join(lines)
