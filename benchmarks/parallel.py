"""Speed-up and memory of a training step of SUV in two processes of one thread each, against one process of one thread.

    python benchmarks/parallel.py [--frames 8] [--height 48] [--width 48] [--rounds 5]

One process takes the batches of both (two per step), so that the work is equal. Run it on an idle machine. Writes
benchmarks/results/parallel.json; the status is 1 if `dp=2` is less than 1.7 times as fast.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import receipt

REQUIRED = 1.7  # of 2.0
RANKS = 2
ZEROS = (0, 1, 2)
CONFIG = {
    "num_layers": [2, 2, 2, 2, 2],
    "sparse_n": [1, 2, 4, 2, 1],
    "num_heads": 4,
    "head_dim": 64,
    "timestep_embed_dim": 256,
    "caption_channels": 512,
    "pooled_projection_dim": 512,
}
TEXT = 128


def child(ranks: int, zero: int, latents: tuple[int, int, int], rounds: int, path: Path) -> None:
    """Time the steps of one process; rank 0 writes them."""
    from mindsora import runtime

    runtime.Runtime(device="CPU").apply()
    import mindspore as ms
    from mindspore import Tensor, nn

    from mindsora.models import SUV
    from mindsora.parallel import launch
    from mindsora.parallel.layout import Layout, mesh_of
    from mindsora.train.data_parallel import step_of
    from mindsora.train.recipe import OptimizerConfig

    if runtime.is_msrun_scheduler():
        launch.serve()
        return
    mesh = mesh_of(Layout(dp=ranks))
    ms.set_seed(0)

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.model = SUV.from_upstream(CONFIG)

        def construct(self, target, *inputs):
            loss = ((self.model(*inputs) - target) ** 2).mean()
            return loss, loss.reshape(1)

    each = RANKS // ranks  # batches of a step that this process takes
    optimizer = OptimizerConfig(lr=1e-5, clip_decay=None, accumulate=each)
    step = step_of(Loss().set_train(), optimizer, ("part",), mesh, zero)
    random = np.random.default_rng(mesh.dp.rank)
    video = (1, step.loss.model.config.in_channels, *latents)
    shapes = video, video, (1, 1, TEXT, CONFIG["caption_channels"]), (1, 1, CONFIG["pooled_projection_dim"])
    target, noisy, text, pooled = (Tensor(random.standard_normal(shape, np.float32)) for shape in shapes)
    batches = [(target, noisy, Tensor(np.array([500.0], np.float32)), text, pooled)] * each
    update, rate, seconds = step.compiled(), Tensor(0.0, ms.float32), []
    update(0, rate, batches).asnumpy()  # compiles
    for number in range(rounds):
        before = time.perf_counter()
        update(number, rate, batches).asnumpy()
        seconds.append(time.perf_counter() - before)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    if runtime.rank() == 0:
        path.write_text(json.dumps({"seconds": seconds, "resident_mib": resident}))
    launch.leave(mesh.world)


def measure(ranks: int, zero: int, latents: tuple[int, int, int], rounds: int, folder: Path) -> dict:
    """`child` in so many processes."""
    path = folder / f"{ranks}_{zero}.json"
    numbers = [str(number) for number in (ranks, zero, *latents, rounds)]
    command = [__file__, "--child", *numbers, str(path)]
    python = Path(sys.executable)
    if ranks == 1:
        command = [str(python), *command]
    else:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        options = [f"--worker_num={ranks}", f"--local_worker_num={ranks}", f"--master_port={port}", "--join=True"]
        command = [
            str(python.with_name("msrun")),
            *options,
            f"--log_dir={folder / 'logs'}",
            "--bind_core=False",
            *command,
        ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    return json.loads(path.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8, help="latent frames (default: 8)")
    parser.add_argument("--height", type=int, default=48, help="latent rows (default: 48)")
    parser.add_argument("--width", type=int, default=48, help="latent columns (default: 48)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps each (default: 5)")
    args = parser.parse_args()
    latents = args.frames, args.height, args.width
    with tempfile.TemporaryDirectory() as name:
        rows = {"one": measure(1, 0, latents, args.rounds, Path(name))}
        for zero in ZEROS:
            rows[f"dp=2,zero={zero}"] = measure(RANKS, zero, latents, args.rounds, Path(name))
    alone = float(np.median(rows["one"]["seconds"]))
    for row in rows.values():
        row["speed_up"] = round(alone / float(np.median(row["seconds"])), 2)
        row["seconds"], row["resident_mib"] = receipt.spread(row["seconds"]), round(row["resident_mib"])
    tokens = args.frames * args.height * args.width // 4
    numbers = {"tokens": tokens, "threads_of_a_process": 1, "required_speed_up": REQUIRED, "layouts": rows}
    receipt.write("parallel", ("mindspore", "numpy"), numbers)
    return 0 if rows["dp=2,zero=0"]["speed_up"] >= REQUIRED else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        ranks, zero, *latents, rounds = map(int, sys.argv[2:8])
        child(ranks, zero, tuple(latents), rounds, Path(sys.argv[8]))
    else:
        sys.exit(main())
