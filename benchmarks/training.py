"""Memory and time of a training step of SUV without recomputation, with full and with selective recomputation.

    python benchmarks/training.py [--frames 16] [--height 32] [--width 48] [--rounds 3]

Each mode runs in processes of its own, one with the given latents and one with a few tokens. Both have the same graph,
so the difference of their resident memory is what grows with the clip: activations and work space. Gradients of each
mode are compared with those without recomputation. Writes benchmarks/results/training_memory.json; the status is 1 if
full recomputation saves less than half, or a gradient differs.

The time of a step beside PyTorch's is measured by `benchmarks/against_torch.py --work suv_training`.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import receipt

MODES = {"none": (0, 0), "full": (10, 0), "feed_forward": (0, 10)}  # blocks, feed-forward layers
SMALL = (2, 8, 8)
REQUIRED = 0.5  # saved share of activations
TOLERANCE = 1e-6  # of the largest gradient: the same operations, in another order of sums at most
CONFIG = {
    "num_layers": [2, 2, 2, 2, 2],
    "sparse_n": [1, 2, 4, 2, 1],
    "num_heads": 4,  # narrow: at 512 channels gradients and moments outweigh the activations of such a clip
    "head_dim": 64,
    "timestep_embed_dim": 256,
    "caption_channels": 512,
    "pooled_projection_dim": 512,
}
TEXT = 128


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Peak(threading.Thread):
    """The largest resident memory while the thread runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.mib = 0.0

    def run(self):
        while True:
            self.mib = max(self.mib, resident_mib())
            time.sleep(0.005)


def child(mode: str, latents: tuple[int, int, int], rounds: int) -> dict:
    """Run steps and return peak, seconds, and the moments, which hold the gradients after a step at rate 0."""
    import mindspore as ms
    from mindspore import Tensor, nn

    from mindsora.models import SUV
    from mindsora.runtime import Runtime
    from mindsora.train.memory import recompute
    from mindsora.train.optimizer import TrainStep
    from mindsora.train.recipe import OptimizerConfig

    Runtime(device="CPU").apply()
    ms.runtime.launch_blocking()  # a call returns when its result is ready
    ms.set_seed(0)
    random = np.random.default_rng(0)
    model = SUV.from_upstream(CONFIG)
    for parameter in model.get_parameters():  # zero gates would stop the gradients
        noise = random.standard_normal(parameter.shape, np.float32) * np.float32(0.05)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    recompute(model, *MODES[mode])

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.model = model

        def construct(self, target, *inputs):
            loss = ((self.model(*inputs) - target) ** 2).mean()
            return loss, loss.reshape(1)

    video = (1, model.config.in_channels, *latents)
    shapes = video, video, (1, 1, TEXT, CONFIG["caption_channels"]), (1, 1, CONFIG["pooled_projection_dim"])
    target, noisy, text, pooled = (Tensor(random.standard_normal(shape, np.float32)) for shape in shapes)
    batch = target, noisy, Tensor(np.array([500.0], np.float32)), text, pooled
    step = TrainStep(Loss().set_train(), OptimizerConfig(lr=1e-5, clip_decay=None))
    run, rate = ms.jit(step), Tensor(0.0, ms.float32)
    start = time.perf_counter()
    run(rate, *batch).asnumpy()
    compiling = time.perf_counter() - start
    gradients = {w.name: m.asnumpy() for w, m in zip(step.adamw.weights, step.adamw.moment1)}
    peak, seconds = Peak(), []
    peak.start()
    for _ in range(rounds):
        start = time.perf_counter()
        run(rate, *batch).asnumpy()
        seconds.append(time.perf_counter() - start)
    return {"peak_mib": peak.mib, "seconds": seconds, "compiling": compiling, "gradients": gradients}


def measure(mode: str, latents: tuple[int, int, int], rounds: int, folder: Path) -> dict:
    """`child` in a process of its own."""
    path = folder / f"{mode}.npz"
    numbers = [str(number) for number in (*latents, rounds)]
    command = [sys.executable, __file__, "--child", mode, *numbers, str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return json.loads(answer) | {"gradients": dict(np.load(path))}


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=16, help="latent frames (default: 16)")
    parser.add_argument("--height", type=int, default=32, help="latent rows (default: 32)")
    parser.add_argument("--width", type=int, default=48, help="latent columns (default: 48)")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps each (default: 3)")
    args = parser.parse_args()
    latents = args.frames, args.height, args.width
    rows, first = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            whole = measure(mode, latents, args.rounds, Path(folder))
            small = measure(mode, SMALL, 1, Path(folder))
            first = first or whole["gradients"]
            largest = {name: np.abs(gradient).max() for name, gradient in first.items() if gradient.any()}
            difference = max(np.abs(whole["gradients"][k] - first[k]).max() / size for k, size in largest.items())
            rows[mode] = {
                "activations_mib": round(whole["peak_mib"] - small["peak_mib"]),
                "peak_mib": round(whole["peak_mib"]),
                "peak_of_few_tokens_mib": round(small["peak_mib"]),
                "seconds": receipt.spread(whole["seconds"]),
                "compile_and_first_step_seconds": round(whole["compiling"], 1),
                "largest_difference_of_gradients": float(difference),
            }
            saved = 1 - rows[mode]["activations_mib"] / rows["none"]["activations_mib"]
            rows[mode]["saved_percent"] = round(100 * saved, 1)
            print(mode, rows[mode], flush=True)
    met = rows["full"]["saved_percent"] >= 100 * REQUIRED
    met &= all(row["largest_difference_of_gradients"] <= TOLERANCE for row in rows.values())
    size = {"configuration": CONFIG, "latents": latents, "text": TEXT, "required_percent": 100 * REQUIRED}
    receipt.write("training_memory", ("mindspore", "numpy"), size | {"rows": rows, "met": bool(met)})
    return int(not met)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        mode, *numbers, path = sys.argv[2:]
        *latents, rounds = map(int, numbers)
        result = child(mode, tuple(latents), rounds)
        np.savez(path, **result.pop("gradients"))
        print(json.dumps(result))
    else:
        sys.exit(main())
