"""What a clip will cost, before anything is loaded: counted, or estimated by a model and labelled so."""

from collections import Counter

from mindsora.audit.devices import DEVICES, Device
from mindsora.errors import InputError
from mindsora.models import registry
from mindsora.pipelines.request import Request
from mindsora.shapes import SPATIAL_STRIDE, chunks
from mindsora.zoo import ModelIndex, configuration

MODEL = "model, not a measurement"


def plan(
    name_or_dir: str,
    size: tuple[int | None, int | None, int | None] = (None, None, None),
    device: str = "cpu",
    dtype: str | dict[str, str] | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    tile: int | None = None,
) -> dict:
    """Shapes, operations, memory, graphs and time of one clip, as JSON has it.

    Args:
        name_or_dir: a model folder, a model in the box, or a published one (its configurations are in the box).
        size: frames, height, width; None means the model's default.
        device: one of DEVICES.
        dtype: as for TextToVideoPipeline.from_pretrained.
        tile: side of the autoencoder's tiles in pixels; None: whole frames.

    Raises:
        InputError: a size, number of steps, guidance, tile, dtype or device that is not possible, before anything is
            built.
    """
    folder = configuration(name_or_dir)
    index = ModelIndex.read(folder)
    # Request alone defines what is legal; no count depends on the prompt.
    asked = Request.of(index, "a clip", None, *size, steps, guidance_scale, tile=tile)
    (frames, height, width), steps, scale = asked.size, asked.num_inference_steps, asked.guidance_scale
    evaluations = index.evaluations(steps)
    if device not in DEVICES:
        raise InputError(f"device {device!r}: must be one of {', '.join(DEVICES)}")

    from mindsora.audit import memory  # imports MindSpore: the numbers of parameters come from the Cells themselves
    from mindsora.models.tiling import Grid
    from mindsora.pipelines.components import cell_specs

    card, rows = DEVICES[device], 2 if scale > 1 else 1
    cells = memory.build(folder, dtype, card.kind)
    config = {name: cell.config for name, cell in cells.items()}
    cost = {name: spec.cost for name, spec in cell_specs(index).items()}
    latents = index.shapes.latent(frames, height, width)
    tokens, lengths = index.shapes.tokens(frames, height, width), index.max_text_lengths
    parts, grid = chunks(latents[0]), Grid(*latents[1:], asked.tile)
    tiles, tile_latents = (
        len(grid.rows.starts) * len(grid.columns.starts),
        (latents[0], grid.rows.size, grid.columns.size),
    )
    found = {
        "model": str(name_or_dir),
        "clip": {
            "frames": frames,
            "height": height,
            "width": width,
            "fps": index.fps,
            "seconds": round(frames / index.fps, 2),
            "steps": steps,
            "evaluations": evaluations,
            "guidance_scale": scale,
            "tile": tile,
            "tiles": tiles,
        },
        "legal": True,
        "rules": index.shapes.describe(),
        "latents": [config["transformer"].in_channels, *latents],
        "tokens": {"visual": tokens, "text": lengths[0], "text_pooled": sum(lengths[1:]), "rows": rows},
        "skiparse": skiparse(cost["transformer"].stages(config["transformer"]), tokens),
    }
    sparse_config, count = config["transformer"], cost["transformer"]
    denoiser, dense = (count.operations(c, tokens, lengths[0]) for c in (sparse_config, count.dense(sparse_config)))
    encode = cost["vae"].encode(config["vae"], frames, height, width)
    encode_run = cost["vae"].encode(config["vae"], frames, *(SPATIAL_STRIDE * side for side in tile_latents[1:]))
    run = cost["vae"].decode_chunked(config["vae"], *tile_latents)
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in config]
    text = sum((cost[name].operations(config[name], n) for name, n in zip(encoders, lengths)), Counter())
    found["flops"] = {
        "counted": "a multiply-add is two; one row, one evaluation",
        "denoiser": _counts(denoiser),
        "dense": _counts(dense),
        "dense_over_sparse": {
            "total": dense.total() / denoiser.total(),
            "attention": dense["attention"] / denoiser["attention"],
        },
        "text_encoders": _counts(text),
        "vae_encode": _counts(encode),
        "vae_decode": _counts(cost["vae"].decode(config["vae"], *latents)),
        "vae_decode_as_run": {key: tiles * value for key, value in _counts(run).items()} | {"chunked": len(parts) > 1},
        "clip": {
            "text": rows * text.total(),
            "encode": tiles * encode_run.total() if index.takes_frames else 0,
            "denoise": evaluations * rows * denoiser.total(),
            "decode": tiles * run.total(),
        },
    }
    decoders = 1 if registry.spec(index.vae[1]).decodes_together else min(len(parts), 2)
    found["graphs"] = {"encode_prompt": 1, "denoise": 1, "decode": decoders}
    found["memory"] = memory.estimate(cells, card, rows, tokens, lengths, tile_latents, found["graphs"])
    found["time"] = times(found, card)
    found["device"] = device
    found["parallel_decoder"] = not registry.spec(index.vae[1]).decodes_together
    return found


def skiparse(stages: list[tuple[int, int]], tokens: int) -> list[dict]:
    """Per stage: what its sparse attention pads, and how long its sub-sequences are. stages: (blocks, sparse_n)."""
    from mindsora.kernels.skiparse_permute.reference import padded_length  # imports MindSpore

    rows = []
    for stage, (blocks, n) in enumerate(stages):
        total = padded_length(tokens, n)
        rows.append(
            {
                "stage": stage,
                "blocks": blocks,
                "sparse_n": n,
                "padding": total - tokens,
                "padding_share": (total - tokens) / total,
                "tokens_per_subsequence": total // n,
            }
        )
    return rows


def times(found: dict, card: Device) -> dict:
    """Seconds by phase: operations over the rate that the device reaches, at least the time to read the weights."""

    def seconds(flops: float, name: str, calls: int) -> float:
        part = found["memory"]["components"][name]
        return seconds_of(flops, part["dtype"], part["weights"], calls, card)

    clip, steps = found["flops"]["clip"], found["clip"]["evaluations"]
    phases = {
        "start": card.start + card.graph * sum(found["graphs"].values()),
        "text": seconds(clip["text"], "text_encoder", 1),
        "encode": seconds(clip["encode"], "vae", 1) if clip["encode"] else 0.0,
        "denoise": seconds(clip["denoise"], "transformer", steps),
        "decode": seconds(clip["decode"], "vae", 1),
    }
    return {"basis": MODEL, "seconds": phases, "total": sum(phases.values())}


def seconds_of(flops: float, dtype: str, weights: int, calls: int, card: Device) -> float:
    """Of operations in this dtype, with weights (bytes) that each call reads."""
    return max(flops / (card.single if dtype == "float32" else card.half), calls * weights / card.bandwidth)


def _counts(count) -> dict:
    return dict(count) | {"total": count.total()}


def describe(found: dict) -> str:
    """The plan as readable text."""
    clip, tokens, flops, memory = found["clip"], found["tokens"], found["flops"], found["memory"]
    lines = [
        f"{found['model']}: {clip['frames']} x {clip['height']} x {clip['width']}, {clip['seconds']:g} s at "
        f"{clip['fps']:g} fps, {clip['steps']} steps, guidance {clip['guidance_scale']:g}",
        f"legal       yes ({found['rules']})",
        f"latents     {' x '.join(map(str, found['latents']))}",
        f"tokens      {tokens['visual']:,} visual, {tokens['text']} text, "
        f"{'2 rows (guidance)' if tokens['rows'] > 1 else '1 row (no guidance)'}",
        "skiparse    stage blocks  n  padding  tokens in a sub-sequence",
    ]
    lines += [
        f"            {s['stage']:5} {s['blocks']:6} {s['sparse_n']:2}  {s['padding']:7}  "
        f"{s['tokens_per_subsequence']:,}"
        for s in found["skiparse"]
    ]
    ratio = flops["dense_over_sparse"]
    lines += [
        f"operations  (counted: {flops['counted']})",
        "                       attention     cross      rest     total",
    ]
    for label, key in (
        ("denoiser", "denoiser"),
        ("dense", "dense"),
        ("text encoders", "text_encoders"),
        ("VAE encode", "vae_encode"),
        ("VAE decode", "vae_decode"),
    ):
        lines.append(_flops_line(label, flops[key]))
    if flops["vae_decode_as_run"]["chunked"] or clip["tiles"] > 1:
        lines.append(_flops_line("  as it runs", flops["vae_decode_as_run"]))
    lines.append(f"            dense / sparse: {ratio['total']:.2f}, attention alone {ratio['attention']:.2f}")
    if clip["tiles"] > 1:
        lines.append(f"            the autoencoder works in {clip['tiles']} tiles of at most {clip['tile']} pixels")
    lines.append(f"            the clip: {scaled(sum(flops['clip'].values()), 'FLOP')}")
    lines += [
        f"memory      GiB (weights counted; the rest is a {MODEL})",
        "                           dtype     weights  with offload  activations",
    ]
    lines += [
        f"            {name:14} {part['dtype']:9} {_gib(part['weights']):>8} {_gib(part['held']):>13} "
        f"{_gib(part['activations']):>12}"
        for name, part in memory["components"].items()
    ]
    if memory["process"]:
        lines.append(f"            process and compiled graphs {_gib(memory['process'])}")
    lines.append(
        f"            peak {_gib(memory['peak'])}; with offload (of each but the VAE, one layer is held) "
        f"{_gib(memory['peak_offload'])}"
    )
    if memory["available"] is not None:
        where = "free here" if found["device"] == "cpu" else "on the card"
        lines.append(f"            there are {_gib(memory['available'])} {where}")
    lines.append(
        f"graphs      {sum(found['graphs'].values())} "
        f"({', '.join(name for name, count in found['graphs'].items() if count)})"
    )
    time = found["time"]
    spent = ", ".join(f"{name} {_time(seconds)}" for name, seconds in time["seconds"].items() if seconds)
    lines.append(f"time        {_time(time['total'])} on {found['device']} ({time['basis']}): {spent}")
    return "\n".join(lines)


def _flops_line(label: str, count: dict) -> str:
    attention, cross = count.get("attention", 0), count.get("cross_attention", 0)
    columns = attention, cross, count["total"] - attention - cross, count["total"]
    return f"            {label:13}" + " ".join(f"{scaled(n, '') if n else '-':>9}" for n in columns)


def _gib(value: float) -> str:
    return f"{value / 2**30:.2f}"


def scaled(value: float, unit: str) -> str:
    """With three digits and a decimal prefix: 490.8 T, 17.2 GB."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
