"""What several cards change for a clip: memory of a card, bytes between cards, time; and which layouts there are.

Counted: weights, and bytes by the exchanges of each layer (tests compare them with the collectives' own counter).
Modelled: activations and time. None of this has been measured on Ascend.
"""

from collections import Counter
from math import ceil

from mindsora.audit.devices import DEVICES, GIB, Device
from mindsora.audit.plan import MODEL, plan, scaled, seconds_of
from mindsora.errors import InputError
from mindsora.models import registry
from mindsora.shapes import chunks
from mindsora.zoo import configuration

SHOWN = 3  # layouts that a search prints
MOST_CARDS = 1024


def plan_parallel(parallel: str, cards: int | None, **asked) -> dict:
    """The plan of one process, and `parallel`: a row for each layout, the fastest first.

    Args:
        parallel: "auto" for all layouts of `cards` cards that make one clip together, or a layout such as "cfg=2,cp=4".
        cards: for "auto".
        asked: arguments of `plan`.

    Raises:
        InputError: as `plan`; a layout that does not divide the model, or no layout with that many cards.
    """
    from mindsora.audit import memory  # imports MindSpore
    from mindsora.parallel.layout import Layout

    if (parallel == "auto") != (cards is not None):
        raise InputError(f"parallel {parallel}, cards {cards}: auto needs the number of cards, a layout has its own")
    if cards is not None and not 1 <= cards <= MOST_CARDS:
        raise InputError(f"cards = {cards}: must be 1 to {MOST_CARDS}")
    found = plan(**asked)
    card, folder = DEVICES[asked.get("device", "cpu")], configuration(asked["name_or_dir"])
    cells = memory.build(folder, asked.get("dtype"), card.kind)
    if parallel == "auto":
        rows = [_row(found, cells, layout, card) for layout in layouts(cards, cells, found["tokens"])]
        if not rows:
            raise InputError(f"cards = {cards}: no layout of so many divides the model's heads; use a power of two")
    else:
        layout = Layout.parse(parallel)
        _check(layout, cells, found["tokens"])
        rows = [_row(found, cells, layout, card)]
    return found | {"parallel": sorted(rows, key=lambda row: (not row["fits"], row["seconds"]))}


def layouts(cards: int, cells: dict, tokens: dict) -> list:
    """Every layout of so many cards with which they make one clip together."""
    from mindsora.parallel.layout import Layout

    found = []
    for cfg in (1, 2):
        for tp in range(1, cards // cfg + 1):
            if cards % (cfg * tp) == 0:
                layout = Layout(cfg=cfg, tp=tp, cp=cards // (cfg * tp))
                try:
                    _check(layout, cells, tokens)
                except InputError:
                    continue
                found.append(layout)
    return found


def _check(layout, cells: dict, tokens: dict) -> None:
    """InputError: the layout does not divide the model or the clip."""
    from mindsora.parallel.collectives import Group
    from mindsora.parallel.shards import Shards

    cp, tp = (Group("", tuple(range(size)), 0) for size in (layout.cp, layout.tp))
    if layout.cfg == 2 and tokens["rows"] == 1:
        raise InputError(f"parallel {layout}: cfg splits guidance, and guidance_scale up to 1 has none; use cp")
    if layout.cp > tokens["visual"]:
        raise InputError(f"parallel {layout}: the clip has {tokens['visual']} tokens; use cp={tokens['visual']}")
    for cell in cells.values():
        spec = registry.spec_of(cell)
        if spec.is_sharded:
            name = spec.sharding.heads
            shards = Shards(cp if spec.component == "transformer" else cp._replace(ranks=(0,)), tp)
            shards.check_heads(name, getattr(cell.config, name))


def _row(found: dict, cells: dict, layout, card: Device) -> dict:
    """One layout."""
    from mindsora.audit import memory

    tokens, transformer = found["tokens"], cells["transformer"]
    cost, size = registry.spec_of(transformer).cost, memory.number(transformer)
    rows, text = tokens["rows"] // layout.cfg, tokens["text"]
    sent = cost.exchanges(transformer.config, layout.cp, layout.tp, rows, tokens["visual"], text, size)
    if layout.cfg == 2:  # the other half's result
        sent += Counter(all_gather=size * cells["transformer"].config.out_channels * _volume(found["latents"]))
    share = ceil(tokens["visual"] / layout.cp), ceil(text / layout.cp)
    parts = {
        name: {"weights": memory.weights(cell, layout.tp), "activations": part["activations"]}
        for (name, cell), part in zip(cells.items(), found["memory"]["components"].values(), strict=True)
    }
    parts["transformer"]["activations"] = cost.memory(
        transformer.config, rows, *share, size, card.kind == "CPU", layout.tp
    )
    peak = found["memory"]["process"] + sum(part["weights"] for part in parts.values())
    peak += max(part["activations"] for part in parts.values())
    phases = _phases(found, layout, card, sent, parts)
    return {
        "layout": str(layout),
        "memory": parts,
        "peak": peak,
        "fits": found["memory"]["available"] is None or peak <= found["memory"]["available"],
        "bytes_per_evaluation": dict(sent),
        "bytes": found["clip"]["evaluations"] * sent.total(),
        "basis": MODEL,
        "phases": phases,
        "seconds": sum(phases.values()),
    }


def _phases(found: dict, layout, card: Device, sent: Counter, parts: dict) -> dict:
    """Seconds by phase: each rank's part of the operations, then what it sends."""
    clip, evaluations, ranks = found["flops"]["clip"], found["clip"]["evaluations"], layout.cp * layout.tp
    count = len(chunks(found["latents"][1]))
    together = layout.cfg * ranks if found["parallel_decoder"] else 1

    def seconds(flops: float, name: str, calls: int) -> float:
        return seconds_of(flops, found["memory"]["components"][name]["dtype"], parts[name]["weights"], calls, card)

    return {
        "start": found["time"]["seconds"]["start"],
        "text": seconds(clip["text"] / layout.tp, "text_encoder", 1),
        "encode": seconds(clip["encode"], "vae", 1) if clip["encode"] else 0.0,
        "denoise": seconds(clip["denoise"] / (layout.cfg * ranks), "transformer", evaluations),
        "exchanges": evaluations * sent.total() / card.link,
        "decode": seconds(clip["decode"] * ceil(count / together) / count, "vae", 1),
    }


def _volume(latents: list[int]) -> int:
    _, frames, height, width = latents
    return frames * height * width


def describe_parallel(found: dict) -> str:
    """The rows as readable text."""
    rows = found["parallel"][:SHOWN]
    lines = [
        f"cards       of each layout ({MODEL}; not measured on Ascend)",
        "            layout        time   exchanges    GB sent by a card    GiB on a card",
    ]
    for row in rows:
        fits = "" if row["fits"] else f", more than the {found['memory']['available'] / GIB:.0f} there are"
        lines.append(
            f"            {row['layout']:10} {row['seconds']:7.1f} s {row['phases']['exchanges']:9.1f} s "
            f"{scaled(row['bytes'], 'B'):>20} {row['peak'] / GIB:16.2f}{fits}"
        )
        lines += [
            f"              {name:16} weights {part['weights'] / GIB:6.2f}  activations {part['activations'] / GIB:6.2f}"
            for name, part in row["memory"].items()
        ]
    return "\n".join(lines)
