"""Model the cost of SUV's operators, layers and forward pass on Ascend; not measured.

    python benchmarks/ascend_roofline.py [--part 910b2] [--frames 121] [--height 576] [--width 1024] [--batch 1]

Four ways to run the attention of a layer, with everything else equal:
    dense      every stage has full attention, by CANN's flash attention
    rearrange  as in upstream: rearrange tokens, concatenate text, a dense mask for every sub-sequence
    grouped    our vector operators write the grouped layout; CANN's flash attention runs without a mask
    fused      our attention operator gathers by stride

Parts are in benchmarks/ascend_parts.json. ASSUMED below and the result file, benchmarks/results/ascend_roofline.json,
list every assumption. The first measurements to make are those that replace these assumptions.
"""

import argparse
import json
from dataclasses import dataclass, fields
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
    "cycles a barrier of the vector pipe costs: what it holds drains": 20,
    "cycles the scalar unit takes for an instruction, a barrier or a flag": 8,
}
(LINEAR, FLASH, OVERLAP, BANDWIDTH, NORM_ROPE_PASSES, ADA_NORM_PASSES, MASK, BARRIER, ISSUE) = ASSUMED.values()

# Bytes a cycle and core: L1 to L0A and L0B, Fixpipe to L2, L2 to L1 or UB, UB to L2.
TO_L0A, TO_L0B, FIXPIPE, FROM_L2, TO_L2 = 256, 128, 86, 110, 86
MACS = 4096  # multiply-adds of half numbers a cycle and cube core
# Of the fused attention (op_host/skiparse_attention_plan.h): rows that stay, rows that stream between two hand-overs,
# rows of scores in UB at a time, rows that L0 holds.
TILE, BLOCK, PASS, BASE = 256, 512, 16, 128


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


@dataclass
class Work:
    """What a pipe is given. steps: 64 floats of the vector pipe, 16 x 16 x 16 products of the cube, cycles of MTE1."""

    steps: float = 0
    bytes: float = 0
    instructions: float = 0
    barriers: float = 0
    buffers: float = 0  # of its queues that it fills: four flags each, of this pipe and of the one that empties them

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def __mul__(self, count: float) -> "Work":
        return Work(*(count * getattr(self, f.name) for f in fields(Work)))


def forward_work(dim: int, blocks: int) -> dict[str, Work]:
    """Work of one unit of the fused attention: TILE queries meet `blocks` x BLOCK keys. Both vector cores together."""
    halves, chunks, fractals, passes = TILE // BASE, BLOCK // BASE, BASE // 16, TILE // PASS
    scores, out = TILE * BLOCK, TILE * dim  # elements
    parts = 2 * -(-out // (2 * PASS * BLOCK))  # of the output, as much as a buffer of scores holds
    block = {
        "cube M": Work(2 * scores * dim / MACS, 0, 2 * halves * chunks),
        "cube MTE1": Work(
            (out + scores) * 2 / TO_L0A + (1 + halves) * BLOCK * dim * 2 / TO_L0B,
            0,
            halves * fractals + chunks + 2 * halves * chunks * fractals,
            buffers=halves + chunks + 2 * halves * chunks,
        ),
        "cube FIX": Work(0, 4 * (scores + out), halves * (chunks + 1), buffers=halves * (chunks + 1)),
        "cube MTE2": Work(
            0, 2 * (2 * BLOCK * dim + scores), 2 * chunks + halves, buffers=2 * chunks + halves
        ),  # K and V, P
        # maximum, scale and difference, exponential (2), sum, cast of every score; then of every row (44) and output
        "vector V": Work(
            6 * scores / 64 + 44 * passes + (2 * out + TILE * 8) / 64,
            0,
            passes * (15 + BLOCK // 64) + 2 * (1 + -(-dim // 64)) + parts,
            7 * passes + 2 * 6,
        ),
        "vector MTE2": Work(0, 4 * (scores + out), passes + parts, buffers=passes + parts),
        "vector MTE3": Work(0, 2 * scores, passes, buffers=passes),
    }
    unit = {
        "cube MTE2": Work(0, 2 * out, 1, buffers=1),  # Q
        "vector V": Work(3 * out / 64 + 8 * TILE / 64, 0, 2 * (10 + -(-dim // 64)) + parts, 2 * 6),  # O / sum, lse
        "vector MTE3": Work(0, 2 * out + 4 * TILE, parts + 2, buffers=parts + 2),
    }
    return {pipe: work * blocks + unit.get(pipe, Work()) for pipe, work in block.items()}


def gradient_work(dim: int, blocks: int) -> dict[str, Work]:
    """Work of one unit of the gradients: TILE keys meet `blocks` x BLOCK queries, dQ by atomic addition.

    The share of the passes before and behind (row statistics, dQ rounded) is that of TILE queries.
    """
    halves, chunks, fractals, passes = TILE // BASE, BLOCK // BASE, BASE // 16, TILE // PASS
    scores, out, stream = TILE * BLOCK, TILE * dim, BLOCK * dim
    block = {
        "cube M": Work(5 * scores * dim / MACS, 0, 5 * halves * chunks),
        "cube MTE1": Work(
            (2 * out + 3 * scores) * 2 / TO_L0A + (2 + 2 * halves) * stream * 2 / TO_L0B + chunks * out * 2 / TO_L0B,
            0,
            2 * (halves * fractals + chunks) + 6 * halves * chunks * fractals,
            buffers=2 * (halves + chunks) + 6 * halves * chunks,
        ),
        "cube FIX": Work(
            0,
            4 * (2 * scores + 2 * out + stream),  # S and dP; dV and dK; dQ
            halves * (2 * chunks + 2) + chunks,
            2 * halves,
            halves * (2 * chunks + 2) + chunks,
        ),
        "cube MTE2": Work(
            0,
            2 * (2 * stream + 2 * scores + 2 * halves * stream + out),  # Q, dO; P, dS; dO, Q for each half; K
            2 * chunks + 2 * halves * (1 + chunks) + halves,
            buffers=2 * chunks + 2 * halves * (1 + chunks) + halves,
        ),
        # scale and difference, exponential (2), product, two casts of S, dP
        "vector V": Work(7 * scores / 64, 0, passes * (4 + 2 * BLOCK // 64), 3 * passes),
        "vector MTE2": Work(0, 4 * (2 * scores + 2 * 2 * BLOCK), 2 * passes + 2 * 2, buffers=2 * passes + 2 * 2),
        "vector MTE3": Work(0, 2 * 2 * scores, 2 * passes, buffers=2 * passes),
    }
    unit = {
        "cube MTE2": Work(0, 2 * 2 * out, 2, buffers=2),  # K, V
        "cube FIX": Work(barriers=-2 * halves),  # the first block's sums wait for nothing
        # row sums of dO x O; dV, dK and dQ rounded; dQ cleared
        "vector V": Work((2 + 2 + 2 + 2) * out / 64, 0, passes * (7 + 2 + 2), passes * (4 + 2)),
        "vector MTE2": Work(0, (2 * 2 + 3 * 4) * out, 6 * passes, buffers=6 * passes),
        "vector MTE3": Work(0, (3 * 2 + 4) * out, 6 * passes, buffers=5 * passes),
    }
    return {pipe: work * blocks + unit.get(pipe, Work()) for pipe, work in block.items()}


def cycles(work: dict[str, Work]) -> dict[str, float]:
    """Cycles of each unit of one cube core and of one of its two vector cores."""

    def slots(core: str) -> float:
        return sum(w.instructions + w.barriers + 4 * w.buffers for pipe, w in work.items() if pipe.startswith(core))

    return {
        "cube": work["cube M"].steps,
        "MTE1": work["cube MTE1"].steps,
        "Fixpipe": work["cube FIX"].bytes / FIXPIPE,
        "MTE2 of the cube": work["cube MTE2"].bytes / FROM_L2,
        "scalar of the cube": slots("cube") * ISSUE,
        "vector": (work["vector V"].steps + work["vector V"].barriers * BARRIER) / 2,
        "MTE2 of a vector core": work["vector MTE2"].bytes / FROM_L2 / 2,
        "MTE3": work["vector MTE3"].bytes / TO_L2 / 2,
        "scalar of a vector core": slots("vector") * ISSUE / 2,
    }


def share_of_peak(work: dict[str, Work]) -> float:
    """Of the cube's peak, that the fused attention reaches with this work."""
    busy = cycles(work)
    return busy["cube"] / max(busy.values()) * OVERLAP


def attention(
    part: Part, way: str, batch: int, tokens: int, text: int, heads: int, dim: int, n: int
) -> dict[str, float]:
    """Seconds of one layer's attention forward, from projected q, k, v to what the output projection reads."""
    n = 1 if way == "dense" else n
    rows = padded_length(tokens, n) // n
    length = rows + text  # tokens of a sub-sequence
    width = heads * dim
    stream = batch * tokens * width * 2  # bytes of q, of k, ...
    grouped = batch * n * length * width * 2
    flops = batch * n * 4 * length * length * width
    seconds = {}
    if way == "fused":
        units = batch * heads * n * (-(-rows // TILE) + -(-text // TILE))
        busy = cycles(forward_work(dim, -(-length // BLOCK)))
        seconds["attention"] = -(-units // part.cubes) * max(busy.values()) / part.clock / OVERLAP
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
    for blocks, n in zip(config.num_layers, config.sparse_n, strict=True):
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
    length = padded_length(tokens, 4) // 4 + args.text  # n = 4
    fused = {}
    for name, work in (("forward", forward_work), ("gradients", gradient_work)):
        unit = work(config.head_dim, -(-length // BLOCK))
        fused[name] = {
            "cycles_of_a_block": {unit: round(c * BLOCK / length) for unit, c in cycles(unit).items()},
            "share_of_peak": round(share_of_peak(unit), 3),
        }
        print(f"\nfused attention at n = 4, {name}: {fused[name]}")
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
            "block": [TILE, BLOCK],
            "fused": fused,
            "layer_ms": layers,
            "forward_ms": total,
        },
    )


if __name__ == "__main__":
    main()
