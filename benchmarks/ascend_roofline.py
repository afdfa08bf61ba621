"""What SUV's operators, layers and forward pass should cost on Ascend: a model, not measured.

    python benchmarks/ascend_roofline.py [--part 910b2] [--frames 121] [--height 576] [--width 1024] [--batch 1]

Four ways to run the attention of a layer, the rest being equal:
    dense      every stage attends fully, CANN's flash attention
    rearrange  skiparse as upstream does it: tokens rearranged, text concatenated, a dense mask for every sub-sequence
    grouped    our vector operators write the grouped layout, CANN's flash attention without a mask
    fused      our attention operator, which gathers by stride

Parts are in benchmarks/ascend_parts.json, everything assumed is in ASSUMED below and in the result file,
benchmarks/results/ascend_roofline.json. The first things to measure are what would replace those assumptions.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import receipt

from mindsora.kernels.skiparse_permute.reference import padded_length
from mindsora.models.suv import SUVConfig, cost

WAYS = ("dense", "rearrange", "grouped", "fused")

ASSUMED = {
    "half the peak is out of reach of linear layers: share of the cube's peak they reach": 0.65,
    "share of the cube's peak that CANN's flash attention reaches": 0.60,
    "share of its slowest unit's pace that the fused attention keeps, filling and draining included": 0.60,
    "share of HBM bandwidth that vector operators reach": 0.80,
    "passes over q or k that separate norm, weight, rotation and casts take (read and write count one each)": 12,
    "passes over the stream that separate residual, norm and modulation take": 12,
    "share of the mask traffic, heads x L x L bytes a sub-sequence, that flash attention does not hide": 0.5,
    "cycles a vector core spends on 64 scores (scale, maximum, difference, exponential 2, sum, cast)": 7,
}
(LINEAR, FLASH, OVERLAP, BANDWIDTH, NORM_ROPE_PASSES, ADA_NORM_PASSES, MASK, SOFTMAX) = ASSUMED.values()

# Bytes a cycle and core: L1 to L0A and L0B, Fixpipe to L2, L2 to L1 or UB, UB to L2.
TO_L0A, TO_L0B, FIXPIPE, FROM_L2, TO_L2 = 256, 128, 86, 110, 86
MACS = 4096  # multiply-adds of half numbers a cycle and cube core
TILE, BLOCK = 128, 512  # queries and keys the fused attention works on


@dataclass(frozen=True)
class Part:
    cubes: int
    clock: float
    hbm: float
    memory_gib: float

    @property
    def peak(self) -> float:
        """FLOP/s of half-precision matrix products."""
        return self.cubes * MACS * 2 * self.clock

    def moved(self, count: float) -> float:
        """Seconds for bytes that vector operators read or write."""
        return count / (self.hbm * BANDWIDTH)


def load_part(name: str) -> Part:
    parts = json.loads(Path(__file__).with_name("ascend_parts.json").read_text())
    return Part(**parts[name])


def fused_block(dim: int) -> dict[str, float]:
    """Cycles of each unit for one block of scores, TILE x BLOCK, on one cube core and its two vector cores."""
    scores, rows = TILE * BLOCK, TILE // 2
    return {
        "cube": 2 * scores * dim / MACS,
        "MTE1": 2 * BLOCK * dim * 2 / TO_L0B + (TILE * dim * 2 + scores * 2) / TO_L0A,
        "Fixpipe": (scores * 4 + TILE * dim * 4) / FIXPIPE,
        "MTE2 of the cube": (2 * BLOCK * dim * 2 + scores * 2) / FROM_L2,
        "vector": (rows * BLOCK * SOFTMAX + 2 * rows * dim) / 64,
        "MTE2 of a vector core": (rows * BLOCK * 4 + rows * dim * 4) / FROM_L2,
        "MTE3": rows * BLOCK * 2 / TO_L2,
    }


def attention(
    part: Part, way: str, batch: int, tokens: int, text: int, heads: int, dim: int, n: int
) -> dict[str, float]:
    """Seconds of one layer's attention forward, from projected q, k, v to what the output projection reads."""
    n = 1 if way == "dense" else n
    rows = padded_length(tokens, n) // n
    length = rows + text  # of a sub-sequence
    width = heads * dim
    stream = batch * tokens * width * 2  # bytes of q, of k, ...
    grouped = batch * n * length * width * 2
    flops = batch * n * 4 * length * length * width
    seconds = {}
    if way == "fused":
        tiles = batch * heads * n * -(-length // TILE)
        blocks = -(-tiles // part.cubes) * -(-length // BLOCK)
        seconds["attention"] = blocks * max(fused_block(dim).values()) / part.clock / OVERLAP
    else:
        seconds["attention"] = flops / (part.peak * FLASH)
    if way in ("dense", "rearrange"):
        seconds["norm and rotation"] = part.moved(2 * NORM_ROPE_PASSES * stream)
    else:
        seconds["norm and rotation"] = part.moved(2 * (stream + (grouped if way == "grouped" else stream)))
    if way == "rearrange" and n > 1:
        seconds["rearrangement"] = part.moved(8 * stream)
        seconds["masks"] = MASK * part.moved(batch * n * heads * length * length)
    if way in ("dense", "rearrange"):
        seconds["concatenation with text"] = part.moved(6 * grouped)
    if way == "grouped":
        seconds["v into groups, result back"] = part.moved(stream + grouped + 2 * stream)
    return seconds


def layer(part: Part, way: str, config: SUVConfig, batch: int, tokens: int, text: int, n: int) -> dict[str, float]:
    """Seconds of one block forward."""
    c = config.dim
    seconds = attention(part, way, batch, tokens, text, config.num_heads, config.head_dim, n)
    stream = batch * (tokens + text) * c * 2
    passes = ADA_NORM_PASSES if way in ("dense", "rearrange") else 4  # fused: x, branch in; h, y out
    seconds["norms and residuals"] = part.moved(2 * passes * stream)
    seconds["activation"] = part.moved(2 * 4 * stream)  # GELU on four times the channels
    seconds["linear layers"] = batch * 2 * (tokens + text) * 12 * c * c / (part.peak * LINEAR)
    return seconds


def forward(part: Part, way: str, config: SUVConfig, batch: int, tokens: int, text: int) -> float:
    """Seconds of one evaluation of SUV."""
    total = 0.0
    for blocks, n in zip(config.num_layers, config.sparse_n):
        total += blocks * sum(layer(part, way, config, batch, tokens, text, n).values())
    count = cost.operations(config, tokens, text)
    return total + batch * (count["skip"] + count["other"]) / (part.peak * LINEAR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="910b2", help="a part of ascend_parts.json")
    for name, value in (("frames", 121), ("height", 576), ("width", 1024), ("batch", 1), ("text", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    part, config = load_part(args.part), SUVConfig()
    p = 8 * config.patch_size
    tokens = ((args.frames - 1) // 8 + 1) * (args.height // p) * (args.width // p)
    print(
        f"MODEL, NOT MEASURED: {args.part}, {args.frames} x {args.height} x {args.width}, {tokens} + {args.text} tokens\n"
    )

    def ms(seconds):
        return round(1e3 * seconds, 3)

    layers = {}
    for n in sorted(set(config.sparse_n)):
        layers[f"n = {n}"] = {
            way: {name: ms(s) for name, s in layer(part, way, config, args.batch, tokens, args.text, n).items()}
            for way in WAYS
        }
        for way, seconds in layers[f"n = {n}"].items():
            detail = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
            print(f"n = {n}  {way:10} {sum(seconds.values()):8.2f} ms  ({detail})")
    total = {way: ms(forward(part, way, config, args.batch, tokens, args.text)) for way in WAYS}
    print()
    for way, value in total.items():
        print(f"forward pass, {way:10} {value:9.1f} ms   {total['dense'] / value:.2f} x dense")
    units = {name: round(value) for name, value in fused_block(config.head_dim).items()}
    print(f"\nfused attention, cycles of a {TILE} x {BLOCK} block: {units}")
    receipt.write(
        "ascend_roofline",
        (),
        {
            "measured": False,
            "kind": "model, not measured",
            "part": args.part,
            "assumed": ASSUMED,
            "tokens": tokens,
            "text": args.text,
            "shape": [args.frames, args.height, args.width],
            "batch": args.batch,
            "cycles_of_a_block": units,
            "layer_ms": layers,
            "forward_ms": total,
        },
    )


if __name__ == "__main__":
    main()
