"""Time our models on CPU against the same models in plain PyTorch (twins/; T5 from transformers), with equal weights.

    python benchmarks/against_torch.py [--work NAME ...] [--threads 2] [--rounds 5] [--model nano]

Both run in float32 on the same cores: our compiled graphs, and eager PyTorch. The script compares their results first.
Then the two take turns within a round, with a pause in which the other library's threads go to sleep. Separate
processes measure peak memory. `generate` is the command `mindsora generate`, from its start to the file; it has no
twin.

Writes benchmarks/results/against_torch_NAME.json. `times_pytorch` is our median over PyTorch's, `required` and `aim`
are its limits. Where the requirement is missed, `profile` splits our time and PyTorch's by operator.
"""

import argparse
import csv
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import receipt

PAUSE = 0.1  # seconds; threads of OpenMP and MindSpore spin for some milliseconds after their work
TOLERANCE = 1e-3  # of a result's largest number: sums of thousands of terms in another order, over many layers
LONGEST = 15  # operators in a profile

WFVAE = {
    "latent_dim": 32,
    "base_channels": 160,
    "encoder_num_resblocks": 2,
    "encoder_energy_flow_hidden_size": 128,
    "decoder_num_resblocks": 2,
    "decoder_energy_flow_hidden_size": 128,
    "connect_res_layer_num": 1,
    "t_interpolation": "trilinear",
}
SUV = {
    "num_layers": [2, 2, 2, 2, 2],
    "sparse_n": [1, 2, 4, 2, 1],
    "num_heads": 8,
    "head_dim": 64,
    "in_channels": 32,
    "out_channels": 32,
    "timestep_embed_dim": 256,
    "caption_channels": 512,
    "pooled_projection_dim": 512,
    "patch_size": 2,
}
T5 = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12}

# name -> kind, configuration, shape, and required and aimed ratio of our time to PyTorch's
SMALL, LARGE = {"frames": 17, "height": 128, "width": 128}, {"frames": 33, "height": 256, "width": 256}
TOKENS = {"latents": (16, 36, 64), "text": 128}  # 9,216 tokens
WORKS = {
    "wfvae_encode_17x128x128": ("wfvae_encode", WFVAE, SMALL, 1.5, 1.0),
    "wfvae_decode_17x128x128": ("wfvae_decode", WFVAE, SMALL, 1.5, 1.0),
    "wfvae_encode_33x256x256": ("wfvae_encode", WFVAE, LARGE, 1.5, 1.0),
    "wfvae_decode_33x256x256": ("wfvae_decode", WFVAE, LARGE, 1.5, 1.0),
    "suv_forward": ("suv_forward", SUV, TOKENS, 1.0, 0.8),
    "suv_training": ("suv_training", SUV, TOKENS, 1.2, 1.0),
    "t5_encode": ("t5", T5, {"tokens": 512}, 1.2, 1.0),
}
GENERATE = (20.0, 10.0)  # seconds: required, aim


def arrays(kind: str, config: dict, shape: dict) -> list[np.ndarray]:
    """The inputs of a call. A training step's first array is the target."""
    random = np.random.default_rng(0)

    def normal(*size):
        return random.standard_normal(size, np.float32)

    if kind == "t5":
        return [random.integers(0, config["vocab_size"], (1, shape["tokens"])).astype(np.int32)]
    if kind.startswith("wfvae"):
        t, h, w = (shape["frames"] - 1) // 8 + 1, shape["height"] // 8, shape["width"] // 8
        if kind == "wfvae_decode":
            return [normal(1, config["latent_dim"], t, h, w)]
        return [random.uniform(-1, 1, (1, 3, shape["frames"], shape["height"], shape["width"])).astype(np.float32)]
    video = (1, config["in_channels"], *shape["latents"])
    text, pooled = (1, 1, shape["text"], config["caption_channels"]), (1, 1, config["pooled_projection_dim"])
    inputs = [normal(*video), np.array([500.0], np.float32), normal(*text), normal(*pooled)]
    return inputs if kind == "suv_forward" else [normal(*video), *inputs]


def mindsora_call(kind: str, config: dict, shape: dict) -> tuple[Callable, dict]:
    """A compiled call without arguments that returns arrays, and the model's weights under upstream's names."""
    import mindspore as ms
    from mindspore import Tensor, nn

    from mindsora import models
    from mindsora.ckpt_convert import upstream_state
    from mindsora.models.wfvae.model import BLOCKS_8
    from mindsora.train.optimizer import TrainStep
    from mindsora.train.recipe import OptimizerConfig

    ms.set_seed(0)
    if kind.startswith("wfvae"):
        model = models.WFVAE.from_upstream(config | BLOCKS_8 | {"norm_type": "layernorm"})
        function = ms.jit(model.encode_moments if kind == "wfvae_encode" else model.decode)
    else:
        model = (models.T5Encoder if kind == "t5" else models.SUV).from_upstream(config)
        function = ms.jit(model)
    random = np.random.default_rng(1)
    for parameter in model.get_parameters():  # a parameter of zeros or ones would hide a twin that omits it
        size = 0.1 if parameter.ndim == 1 else 0.5 / math.sqrt(math.prod(parameter.shape[1:]))
        noise = random.standard_normal(parameter.shape, np.float32) * np.float32(size)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    state = upstream_state(model)
    inputs = [Tensor(array) for array in arrays(kind, config, shape)]
    if kind != "suv_training":
        return lambda: [function(*inputs).asnumpy()], state

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.model = model

        def construct(self, target, *inputs):
            loss = ((self.model(*inputs) - target) ** 2).mean()
            return loss, loss.reshape(1)

    # A rate of 0: every step does the same work on the same weights.
    step, rate = ms.jit(TrainStep(Loss(), OptimizerConfig(lr=1e-5, clip_decay=None))), Tensor(0.0, ms.float32)
    model.set_train()
    return lambda: [step(rate, *inputs).asnumpy()[:2]], state  # the loss, and the norm of the gradients


def torch_call(kind: str, config: dict, shape: dict, state: dict | None = None) -> Callable:
    """The same call of the twin."""
    import torch

    model = twin(kind, config)
    if state is not None:
        load(model, state)
    inputs = [torch.from_numpy(array) for array in arrays(kind, config, shape)]
    if kind == "suv_training":
        return _torch_step(model, *inputs)
    function = {"wfvae_encode": "encode", "wfvae_decode": "decode"}.get(kind, "forward")

    def call():
        with torch.no_grad():
            result = getattr(model, function)(*inputs)
            return [(result.last_hidden_state if kind == "t5" else result).numpy()]

    return call


def twin(kind: str, config: dict):
    """A PyTorch model."""
    if kind.startswith("wfvae"):
        from twins import wfvae

        return wfvae.WFVAE(config)
    if kind == "t5":
        import transformers

        return transformers.T5EncoderModel(transformers.T5Config(**config, feed_forward_proj="gated-gelu")).eval()
    from twins import suv

    return suv.SUV(config)


def load(model, state: dict[str, np.ndarray]) -> None:
    """Load our weights into a twin. Skips what only one of the two stores: constants and second copies."""
    import torch

    missing, unexpected = model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()}, strict=False)
    missing = [name for name in missing if name != "encoder.embed_tokens.weight"]
    unexpected = [name for name in unexpected if "wavelet" not in name]
    if missing or unexpected:
        raise ValueError(f"the twin has no place for {unexpected}, and needs {missing}")


def _torch_step(model, target, *inputs) -> Callable:
    """Forward, backward, norm of the gradients, AdamW and the moving average."""
    import torch

    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=0.0)
    averages = [weight.detach().clone() for weight in weights]

    def step():
        optimizer.zero_grad()
        loss = ((model(*inputs) - target) ** 2).mean()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        optimizer.step()
        torch._foreach_lerp_(averages, [weight.detach() for weight in weights], 1e-4)
        return [np.array([loss.item(), norm.item()], np.float32)]

    return step


def agree(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference relative to the largest number."""
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))
    if not worst < TOLERANCE:
        raise ValueError(f"results differ by {worst:.1e} of the largest number; {TOLERANCE} is allowed")
    return worst


def measure(name: str, threads: int, rounds: int) -> dict:
    """One row: times, memory and, where it is too slow, profiles."""
    import torch

    kind, config, shape, required, aim = WORKS[name]
    torch.set_num_threads(threads)
    start = time.perf_counter()
    ours, state = mindsora_call(kind, config, shape)
    first, theirs = ours(), torch_call(kind, config, shape, state)
    compiling = time.perf_counter() - start
    del state
    calls = {"mindsora": ours, "pytorch": theirs}
    difference = agree(first, theirs())
    seconds = {side: [] for side in calls}
    for _ in range(rounds):
        for side, call in calls.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - start)
    row = {
        "work": name,
        "configuration": config,
        "shape": shape,
        "threads": threads,
        "largest_difference": difference,
        "seconds": {side: receipt.spread(samples) for side, samples in seconds.items()},
        "build_compile_and_first_call_seconds": round(compiling, 1),
    }
    median = {side: spread["median"] for side, spread in row["seconds"].items()}
    row |= {"times_pytorch": round(median["mindsora"] / median["pytorch"], 3), "required": required, "aim": aim}
    row["met"] = row["times_pytorch"] <= required
    row["memory"] = {side: child("memory", name, side, threads) for side in calls}
    if not row["met"]:
        row["profile"] = {side: child("profile", name, side, threads) for side in calls}
    return row


def child(what: str, name: str, side: str, threads: int) -> dict:
    """Run one measurement in a separate process; its result."""
    command = [sys.executable, __file__, "--threads", str(threads), "--child", what, name, side]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def one_side(name: str, side: str, threads: int) -> Callable:
    kind, config, shape, *_ = WORKS[name]
    if side == "mindsora":
        return mindsora_call(kind, config, shape)[0]
    import torch

    torch.set_num_threads(threads)
    return torch_call(kind, config, shape)


def memory(name: str, side: str, threads: int) -> dict:
    """MiB of the whole process: with library, weights and inputs loaded, and at the peak of the second call."""
    call = one_side(name, side, threads)
    held = _status("VmRSS")
    call()  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()
    return {"before_mib": held >> 10, "peak_mib": _status("VmHWM") >> 10}


def _status(key: str) -> int:
    """A field in KiB. (ru_maxrss does not serve: a process starts with its parent's.)"""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)


def profile(name: str, side: str, threads: int) -> dict:
    """Percent of the operators' time, the longest first. Our custom operators have their Cell's name."""
    call = one_side(name, side, threads)
    call()
    found = Counter()
    if side == "pytorch":
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as traced

        with traced(activities=[ProfilerActivity.CPU]) as trace:
            call()
        for event in trace.key_averages():
            found[event.key] += event.self_cpu_time_total
    else:
        from mindspore import Profiler

        with tempfile.TemporaryDirectory() as folder:
            profiler = Profiler(output_path=folder)
            call()
            profiler.analyse()
            (table,) = Path(folder).glob("**/cpu_op_detail_info_*.csv")
            with table.open(newline="") as file:
                for operator in csv.DictReader(file):
                    custom = re.findall(r"-(\w+)/Custom", operator["full_op_name"])
                    found[custom[-1] if custom else operator["op_type"]] += float(operator["op_total_time(ms)"])
    total = sum(found.values())
    return {key: round(100 * value / total, 1) for key, value in found.most_common(LONGEST)}


def generate(model: str, threads: int, rounds: int) -> dict:
    """Seconds of the whole command, and of its phases from its manifest."""
    required, aim = GENERATE
    samples, manifests = [], []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "clip.mp4"
        options = ["generate", "a red circle moving right", "--model", model, "--seed", "0", "--output", str(output)]
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "mindsora.cli", *options], check=True, cwd=receipt.ROOT, capture_output=True
            )
            samples.append(time.perf_counter() - start)
            manifests.append(json.loads(output.with_name(f"{output.name}.json").read_text()))
    middle = manifests[sorted(range(rounds), key=samples.__getitem__)[rounds // 2]]
    spread = receipt.spread(samples)
    return {
        "work": "generate",
        "model": model,
        "request": middle["request"],
        "threads": threads,
        "seconds": spread,
        "phases_of_the_median": middle["cost"]["seconds"],
        "required": required,
        "aim": aim,
        "met": spread["median"] <= required,
        "memory": {"peak_mib": max(m["cost"]["peak_memory_bytes"]["host"] for m in manifests) >> 20},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*WORKS, "generate"]
    parser.add_argument("--work", nargs="+", choices=names, default=names, metavar="NAME", help=f"{', '.join(names)}")
    parser.add_argument("--threads", type=int, default=2, help="cores that everything runs on (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each side (default: 5)")
    parser.add_argument("--model", default="nano", help="what `generate` is measured with (default: nano)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # one measurement of memory, or one profile
    args = parser.parse_args()
    # Before any library counts cores, so that no thread of either side runs on other cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.child:
        what, name, side = args.child
        if side == "mindsora":
            _set_up()
        print(json.dumps({"memory": memory, "profile": profile}[what](name, side, args.threads)))
        return
    if len(args.work) > 1:  # a process for each: MindSpore keeps its compiled graphs and their weights
        shared = ["--threads", str(args.threads), "--rounds", str(args.rounds), "--model", args.model]
        sys.exit(max(subprocess.call([sys.executable, __file__, "--work", name, *shared]) for name in args.work))
    (name,) = args.work
    if name == "generate":
        row, packages = generate(args.model, args.threads, args.rounds), ("mindspore", "numpy")
    else:
        _set_up()
        row = measure(name, args.threads, args.rounds)
        packages = ("mindspore", "numpy", "torch") + (("transformers",) if name == "t5_encode" else ())
    receipt.write(f"against_torch_{name}", packages, row)
    print(json.dumps(row, indent=1), flush=True)
    if not row["met"]:
        sys.exit(f"{name}: required and missed")


def _set_up() -> None:
    from mindsora.runtime import Runtime

    Runtime(device="CPU").apply()


if __name__ == "__main__":
    main()
