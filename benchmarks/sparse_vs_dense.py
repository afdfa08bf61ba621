"""Time a SUV stack with sparse attention against the same weights with dense attention, and the arithmetic bound.

    python benchmarks/sparse_vs_dense.py [--frames 8] [--height 36] [--width 64] [--rounds 5]

The stack has the released stages (n = 1-2-4-8-4-2-1) with two blocks each, 512 channels, 8 heads of 64. The default
latent grid has an eighth of the tokens of 121 x 576 x 1024: 8 x 18 x 32 = 4,608 instead of 16 x 36 x 64 = 36,864.
The script times the compiled forward pass and training step (gradients, clipping, AdamW, moving average); sparse and
dense take turns.

Writes benchmarks/results/sparse_vs_dense.json. `speed_up` is dense time over sparse time; `ideal` is the ratio of the
multiply-adds of attention and linear layers, at one rate for all of them.
"""

import argparse
import dataclasses
import time

import mindspore as ms
import numpy as np
import receipt
from mindspore import Tensor, nn

from mindsora.models.suv import SUV, SUVConfig
from mindsora.runtime import Runtime
from mindsora.train.optimizer import TrainStep
from mindsora.train.recipe import OptimizerConfig

TEXT = 128
SPARSE = SUVConfig(
    num_layers=(2,) * 7,
    num_heads=8,
    head_dim=64,
    timestep_embed_dim=256,
    caption_channels=512,
    pooled_projection_dim=512,
)
DENSE = dataclasses.replace(SPARSE, sparse_n=(1,) * len(SPARSE.sparse_n))


class Loss(nn.Cell):
    """Mean squared error, and the part of it that `TrainStep` logs."""

    def __init__(self, suv: SUV):
        super().__init__()
        self.suv = suv

    def construct(self, target, *inputs):
        loss = ((self.suv(*inputs) - target) ** 2).mean()
        return loss, loss.reshape(1)


def batch(frames: int, height: int, width: int) -> list[Tensor]:
    random = np.random.default_rng(0)
    video = (1, SPARSE.in_channels, frames, height, width)
    text, pooled = (1, 1, TEXT, SPARSE.caption_channels), (1, 1, SPARSE.pooled_projection_dim)
    shapes = video, video, text, pooled
    target, latents, text, pooled = (Tensor(random.standard_normal(shape, np.float32)) for shape in shapes)
    return [target, latents, Tensor(np.array([500.0], np.float32)), text, pooled]


def flops(config: SUVConfig, tokens: int) -> dict[str, int]:
    """Operations of one forward pass: attention's two products, and all linear layers of blocks and skips."""
    rows, attention, linear = tokens + TEXT, 0, 0
    for blocks, n in zip(config.num_layers, config.sparse_n):
        counts = [len(range(s, tokens, n)) for s in range(n)]
        attention += blocks * sum(4 * config.dim * (count + TEXT) ** 2 for count in counts)
        linear += blocks * 2 * rows * 12 * config.dim**2  # q, k, v, out: 4; feed-forward: 8
    linear += len(config.num_layers) // 2 * 2 * rows * 2 * config.dim**2
    return {"attention": attention, "linear": linear}


def ideal(tokens: int, training: bool) -> float:
    """Dense over sparse multiply-adds. The backward pass takes 2 passes of a linear layer, 2.5 of attention."""
    totals = []
    for config in (DENSE, SPARSE):
        part = flops(config, tokens)
        totals.append(part["attention"] * (3.5 if training else 1) + part["linear"] * (3 if training else 1))
    return totals[0] / totals[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8, help="latent frames (default: 8)")
    parser.add_argument("--height", type=int, default=36, help="latent rows (default: 36)")
    parser.add_argument("--width", type=int, default=64, help="latent columns (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls each (default: 5)")
    args = parser.parse_args()
    Runtime(device="CPU").apply()
    ms.runtime.launch_blocking()  # a call returns when its result is ready
    inputs = batch(args.frames, args.height, args.width)
    tokens = args.frames * (args.height // SPARSE.patch_size) * (args.width // SPARSE.patch_size)
    sparse, dense = SUV(SPARSE), SUV(DENSE)
    for ours, theirs in zip(dense.get_parameters(), sparse.get_parameters()):
        ours.set_data(theirs.value())  # the same weights
    rate, optimizer = Tensor(0.0, ms.float32), OptimizerConfig(lr=1e-5)
    models = {"sparse": sparse, "dense": dense}
    calls = {("forward", name): ms.jit(model) for name, model in models.items()}
    steps = {("training", name): ms.jit(TrainStep(Loss(model), optimizer)) for name, model in models.items()}
    seconds = {}
    for kind, functions, arguments in (("forward", calls, inputs[1:]), ("training", steps, [rate, *inputs])):
        for turn in range(args.rounds + 1):  # the first round compiles
            for name, model in models.items():
                model.set_train(kind == "training")
                start = time.perf_counter()
                functions[kind, name](*arguments)
                if turn:
                    seconds.setdefault((kind, name), []).append(time.perf_counter() - start)
    rows = {}
    for kind in ("forward", "training"):
        best = {name: min(seconds[kind, name]) for name in models}
        rows[kind] = {f"{name}_seconds": receipt.spread(seconds[kind, name]) for name in models} | {
            "speed_up": round(best["dense"] / best["sparse"], 3),
            "ideal": round(ideal(tokens, kind == "training"), 3),
        }
        print(kind, rows[kind], flush=True)
    size = {
        "tokens": tokens,
        "text": TEXT,
        "channels": SPARSE.dim,
        "heads": SPARSE.num_heads,
        "num_layers": SPARSE.num_layers,
        "sparse_n": SPARSE.sparse_n,
    }
    receipt.write("sparse_vs_dense", ("mindspore", "numpy"), size | rows)


if __name__ == "__main__":
    main()
