"""What a stage's training will cost in its published layout: tokens and operations counted; memory and time modelled."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mindsora.audit.devices import DEVICES, GIB, Device
from mindsora.audit.plan import MODEL, scaled
from mindsora.data.sizes import min_max_sizes
from mindsora.errors import InputError, shown
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
_BLOCK = re.compile(r"[a-z_]*(\.\d+)*")  # "transformer_blocks.3.0" of "transformer_blocks.3.0.attn1.to_q.weight"


@dataclass(frozen=True)
class Spread:
    """How cards share a training.

    Attributes:
        tp, cp: cards that share the layers of a model, and the tokens of a clip.
        dp: groups of cards that take different clips.
        zero: what all cards with the same weights share: 1, the optimizer's state; 2, gradients too; 3, weights too,
            gathered block by block.
        batch: clips in a step.
    """

    tp: int
    cp: int
    dp: int
    zero: int
    batch: int

    @classmethod
    def published(cls, recipe: StageRecipe) -> "Spread":
        layout = recipe.layout
        return cls(layout.tensor_parallel, 1, layout.data_ranks, layout.zero, layout.batch)

    @classmethod
    def parse(cls, text: str, recipe: StageRecipe) -> "Spread":
        """Read "dp=2,cp=4,zero=3". InputError: a part that is none of dp, cp, tp, zero=1 to zero=3."""
        from mindsora.parallel.layout import Layout  # imports MindSpore

        parts = text.split(",")
        zero = [part.strip().removeprefix("zero=") for part in parts if part.strip().startswith("zero=")]
        if len(zero) > 1 or not set(zero) <= {"1", "2", "3"}:
            raise InputError(f"parallel {shown(text)}: zero must be 1, 2 or 3, once")
        layout = Layout.parse(",".join(part for part in parts if not part.strip().startswith("zero=")))
        if layout.cfg > 1:
            raise InputError(f"parallel {shown(text)}: cfg splits guidance, which training has none of; leave it out")
        return cls(layout.tp, layout.cp, layout.dp, int(*zero) if zero else 1, layout.dp * recipe.data.batch)

    @property
    def cards(self) -> int:
        return self.dp * self.cp * self.tp


def plan_training(recipe: StageRecipe, device: str, parallel: str | None = None) -> dict:
    """Tokens, operations, memory per card and time, as JSON has it.

    Args:
        device: one of DEVICES; a card.
        parallel: such as "dp=2,cp=4,zero=3"; None: the published layout.

    Raises:
        InputError: an unknown device, a transformer that does not fit the encoders, or a layout that does not divide it.
    """
    if device not in DEVICES or DEVICES[device].memory is None:
        cards = [name for name, card in DEVICES.items() if card.memory is not None]
        raise InputError(f"device {device!r}: a training plan is for one of {', '.join(cards)}")

    from mindspore.nn.utils import no_init_parameters

    from mindsora.audit import memory  # imports MindSpore
    from mindsora.train.model_folder import transformer_config

    card, folder = DEVICES[device], _folder(recipe)
    spread = Spread.published(recipe) if parallel is None else Spread.parse(parallel, recipe)
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
            "cards": spread.cards,
            "tensor_parallel": spread.tp,
            "context_parallel": spread.cp,
            "data_ranks": spread.dp,
            "zero": spread.zero,
            "clips_per_card": recipe.data.batch,
            "batch": spread.batch,
        },
        "shapes": shapes,
        "tokens_per_step": largest["tokens"] * spread.batch,
        "flops_per_step": {key: value * spread.batch for key, value in largest["flops"].items()},
        "steps": recipe.run.steps,
    }
    encoders = sum(memory.weights(cell) for cell in cells.values())
    found["memory"] = _memory(recipe, spread, transformer, config, largest, index.max_text_lengths[0], encoders, card)
    seconds = _seconds(found["flops_per_step"], spread.cards, card)
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
    recipe: StageRecipe,
    spread: Spread,
    transformer,
    config: dict,
    shape: dict,
    text: int,
    encoders: int,
    card: Device,
) -> dict:
    """Bytes of one card by component, and the fewest cards that hold the run.

    Args:
        shape: the largest.
        text: tokens of text.
        encoders: bytes of their weights.
    """
    cost, whole = registry.spec_of(transformer).cost, spread.tp * spread.cp
    local, block = _parameters_per_card(transformer, spread.tp)
    net, rows = transformer.config, recipe.data.batch
    stream = rows * (shape["tokens"] + text) * net.dim
    blocks = sum(count for count, _ in cost.stages(net))
    widest = cost.memory(net, rows, shape["tokens"], text, 2, False)
    encoding = rows * _widest_of_encoder(config["vae"], shape)

    def parts(ranks: int) -> dict[str, int]:
        return {
            # With zero = 3 a card has its share and two whole blocks, the one that computes and the next.
            "weights": 2 * local if spread.zero < 3 else 2 * local // ranks + 2 * 2 * block,
            "gradients": 4 * local // (ranks if spread.zero >= 2 else 1),
            "optimizer_and_ema": 16 * local // ranks,  # float32: masters, two moments, the moving average
            "encoders": encoders,
            # Upstream's tensor parallelism shares the tokens outside the layers too; the encoders run before the step.
            "activations": max((2 * stream * blocks + widest) // whole, encoding),
        }

    own = parts(spread.dp * spread.cp)
    fitting = (ranks for ranks in _powers() if sum(parts(ranks).values()) <= card.memory)
    least = next(fitting, None)
    without = max((KEPT * stream * blocks + widest) // whole, encoding)
    return {
        "basis": MODEL,
        "parts": own,
        "total": sum(own.values()),
        "activations_without_recomputation": without,
        "card": card.memory,
        "fewest_cards": None if least is None else max(least, spread.cp) * spread.tp,
    }


def _parameters_per_card(transformer, tensor_parallel: int) -> tuple[int, int]:
    """Of the model, and of its largest block."""
    from mindsora.audit.memory import shares  # imports MindSpore

    blocks = Counter()
    for parameter, size in shares(transformer, tensor_parallel):
        blocks[_BLOCK.match(parameter.name).group()] += size
    return blocks.total(), max(blocks.values())


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
    context = f" x {layout['context_parallel']} context parallel" if layout["context_parallel"] > 1 else ""
    lines = [
        f"{found['model']}, {found['parameters'] / 1e9:.2f} B parameters; {found['steps']:,} steps of "
        f"{layout['batch']:,} clips",
        f"layout      {layout['cards']} cards: {layout['data_ranks']} data ranks x {layout['tensor_parallel']} tensor "
        f"parallel{context}, {layout['clips_per_card']} clips at a time, ZeRO-{layout['zero']}",
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
