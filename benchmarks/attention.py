"""Time skiparse attention on CPU: the compiled operator, the definition, and PyTorch (installed beside MindSora).

    python benchmarks/attention.py [--tokens 4608 9216] [--sparse-n 1 2 4 8] [--rounds 7]

PyTorch's version permutes, appends the text, calls `scaled_dot_product_attention` and permutes back. Contenders take
turns within a round, with a pause in which the other library's threads go to sleep. A new process measures the peak
memory of one call, above its memory before it makes the inputs. Float32, batch 1.

Writes benchmarks/results/attention.json. `share` is the operator's time over PyTorch's (required: at most 1, aim: 0.7);
`of_flop_ratio` is the speed-up against n = 1 over the saving in arithmetic (required: 0.9); `memory` is the peak over
inputs and outputs (required: at most 1.2).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import receipt

PAUSE = 0.1  # seconds; threads of OpenMP and MindSpore spin for some milliseconds after their work
CONTENDERS = ("operator", "definition", "pytorch", "operator_training", "pytorch_training")


def arrays(shape: dict) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    sizes = [(1, tokens, shape["heads"], shape["head_dim"]) for tokens in (shape["tokens"], shape["text"])]
    return [random.standard_normal(size, np.float32) for size in sizes for _ in range(3)]


def contender(name: str, shape: dict, sparse_n: int, group: bool) -> Callable[[], None]:
    """A call that computes the outputs and, for training, the gradients of their sum by all six inputs."""
    run = _pytorch if name.startswith("pytorch") else _mindsora
    return run(name, arrays(shape), sparse_n, group)


def _mindsora(name, inputs, sparse_n, group):
    os.environ["MINDSORA_KERNELS"] = "reference" if name == "definition" else "cpu"  # read when the graph is compiled
    import mindspore as ms
    from mindspore import Tensor, nn

    from mindsora.kernels.skiparse_attention import skiparse_attention

    ms.runtime.launch_blocking()  # a call returns when its result is ready

    class Attention(nn.Cell):
        def construct(self, q, k, v, text_q, text_k, text_v):
            return skiparse_attention(q, k, v, text_q, text_k, text_v, sparse_n=sparse_n, group=group)

    class Total(nn.Cell):
        def __init__(self):
            super().__init__()
            self.attention = Attention()

        def construct(self, *tensors):
            visual, text = self.attention(*tensors)
            return visual.sum() + text.sum()

    function = ms.jit(ms.value_and_grad(Total(), tuple(range(6))) if name.endswith("training") else Attention())
    tensors = [Tensor(inputs.pop(0)) for _ in range(6)]  # frees the arrays, since memory is measured
    function(*tensors)  # compiles with the choice above
    return lambda: function(*tensors)


def _pytorch(name, inputs, sparse_n, group):
    import torch

    q, k, v, text_q, text_k, text_v = (torch.from_numpy(x) for x in inputs)
    (_, tokens, heads, dim), n = q.shape, sparse_n
    rows = -(-tokens // n**2) * n
    padding = rows * n - tokens
    # Padding keys are at the end of each sub-sequence, before the text.
    i = torch.arange(rows * n).reshape((-1, n, n) if group else (-1, n))
    real = (i.permute(1, 0, 2) if group else i.T).reshape(n, rows) < tokens
    mask = torch.cat([real, torch.ones(n, text_k.shape[1], dtype=torch.bool)], 1)[:, None, None] if padding else None

    def dealt_out(x, text):  # (1, N, H, D), (1, L, H, D) -> (n, H, R + L, D)
        x = torch.nn.functional.pad(x[0], (0, 0, 0, 0, 0, padding)) if padding else x[0]
        if group:
            x = x.reshape(rows // n, n, n, heads, dim).permute(1, 3, 0, 2, 4).reshape(n, heads, rows, dim)
        else:
            x = x.reshape(rows, n, heads, dim).permute(1, 2, 0, 3)
        return torch.cat([x, text.transpose(1, 2).expand(n, -1, -1, -1)], 2)

    def attention():
        out = torch.nn.functional.scaled_dot_product_attention(
            dealt_out(q, text_q), dealt_out(k, text_k), dealt_out(v, text_v), mask
        )
        visual, text = out[:, :, :rows], out[:, :, rows:].mean(0).transpose(0, 1)[None]
        if group:
            visual = visual.reshape(n, heads, rows // n, n, dim).permute(2, 0, 3, 1, 4)
        else:
            visual = visual.permute(2, 0, 1, 3)
        return visual.reshape(1, rows * n, heads, dim)[:, :tokens], text

    inputs = (q, k, v, text_q, text_k, text_v)
    if not name.endswith("training"):

        def forward():
            with torch.no_grad():
                return attention()

        return forward

    def training():
        for x in inputs:
            x.requires_grad_(True)
        visual, text = attention()
        return torch.autograd.grad(visual.sum() + text.sum(), inputs)

    return training


def flops(shape: dict, sparse_n: int) -> int:
    """Operations of both products, without padding."""
    counts = [len(range(s, shape["tokens"], sparse_n)) for s in range(sparse_n)]  # also of group skip, shifted
    return sum(4 * shape["heads"] * shape["head_dim"] * (count + shape["text"]) ** 2 for count in counts)


def agree(shape: dict, sparse_n: int, group: bool) -> None:
    """All contenders agree to 1e-5: float32 sums of thousands of terms, and MindSpore's exp."""
    results = {}
    for name in ("operator", "definition", "pytorch"):
        results[name] = [
            np.asarray(x) if name == "pytorch" else x.asnumpy() for x in contender(name, shape, sparse_n, group)()
        ]
    for name in ("definition", "pytorch"):
        for a, b in zip(results["operator"], results[name]):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max(), err_msg=name)


def interleaved(shape: dict, sparse_n: int, group: bool, rounds: int) -> dict[str, list[float]]:
    calls = {name: contender(name, shape, sparse_n, group) for name in CONTENDERS}
    seconds = {name: [] for name in CONTENDERS}
    for turn in range(rounds + 1):  # the first round warms up
        for name, call in calls.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(name: str, shape: dict, sparse_n: int, group: bool) -> float:
    """Peak of one call in a separate process, relative to inputs and outputs."""
    request = json.dumps({"name": name, "shape": shape, "sparse_n": sparse_n, "group": group})
    done = subprocess.run([sys.executable, __file__, "--worker", request], capture_output=True, text=True, check=True)
    size = sum(x.nbytes for x in arrays(shape))
    outputs = size if name.endswith("training") else size / 3
    return round(float(done.stdout.split()[-1]) / (size + outputs), 3)


def worker(request: dict) -> None:
    """Measure without `Runtime`, which keeps freed memory for the next call; that would count here."""
    request["shape"], wanted = request["shape"] | {"tokens": 256, "text": 16}, request["shape"]
    contender(**request)()  # loads and compiles everything
    held = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    contender(**request | {"shape": wanted})()
    print((_status("VmHWM") - held) * 1024)


def _status(key: str) -> int:
    """A field of /proc/self/status in KiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4608, 9216], help="video tokens (default: 4608 9216)")
    parser.add_argument("--sparse-n", type=int, nargs="+", default=[1, 2, 4, 8], help="default: 1 2 4 8")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each contender (default: 7)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # one measurement of memory
    args = parser.parse_args()
    if args.worker:
        return worker(json.loads(args.worker))
    import torch

    from mindsora.runtime import Runtime

    Runtime(device="CPU").apply()

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count())
    rows = []
    for tokens in args.tokens:
        shape = {"tokens": tokens, "text": 128, "heads": 8, "head_dim": 64}
        dense = None
        for sparse_n in args.sparse_n:
            group = sparse_n > 1  # group skip reads less regularly than a plain stride
            agree(shape, sparse_n, group)
            seconds = interleaved(shape, sparse_n, group, args.rounds)
            best = {name: min(times) for name, times in seconds.items()}
            if sparse_n == 1:
                dense = best["operator"]
            row = shape | {
                "sparse_n": sparse_n,
                "seconds": {name: receipt.spread(times) for name, times in seconds.items()},
                "share": round(best["operator"] / best["pytorch"], 3),
                "share_training": round(best["operator_training"] / best["pytorch_training"], 3),
                "gflop_per_second": round(flops(shape, sparse_n) / best["operator"] * 1e-9, 1),
                "of_flop_ratio": None
                if dense is None
                else round(dense / best["operator"] * flops(shape, sparse_n) / flops(shape, 1), 3),
                "memory": {name: peak_memory(name, shape, sparse_n, group) for name in CONTENDERS},
            }
            rows.append(row)
            print(row, flush=True)
    receipt.write("attention", ("mindspore", "numpy", "torch"), {"threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()
