"""Check and time our AscendC operators on an Atlas.

    python benchmarks/ascend_kernels.py [--tokens 36864] [--text 512] [--heads 24] [--dim 128] [--repeats 20]

The script compares each operator, forward and backward, with its definition in float32 on the same inputs. An operator
may be at most twice as wrong as the definition in half precision (otherwise the status is 1). Then our operators,
CANN's flash attention and the definitions take turns, at the given size and each n of SUV. Writes
benchmarks/results/ascend_kernels.json.

--device CPU runs the same program with the operators for CPU instead of ours, to test the program itself. Under
MS_SIMULATION_LEVEL every operator is called and none computes; there are no numbers and no result file.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mindspore as ms
import numpy as np
import receipt
from mindspore import Tensor

from mindsora.audit.bringup import simulated
from mindsora.kernels.ada_norm_modulate import ada_norm_modulate, gated_residual
from mindsora.kernels.choice import VARIABLE
from mindsora.kernels.qk_norm_rope import qk_norm_rope_grouped
from mindsora.kernels.skiparse_attention import skiparse_attention
from mindsora.kernels.skiparse_permute import skiparse_permute
from mindsora.nn.rope import rope_table, split_v1_5
from mindsora.runtime import Runtime

OURS = {"Ascend": "ascend_custom", "CPU": "cpu"}
SPARSE = (1, 2, 4, 8)


@dataclass
class Case:
    """A function of Tensors, the inputs to differentiate by, and the other implementations that compute it."""

    function: Callable
    inputs: list[np.ndarray]
    others: tuple[str, ...] = ("reference",)


def cases(tokens: int, text: int, heads: int, dim: int, sparse: tuple[int, ...], builtin: bool) -> dict[str, Case]:
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.standard_normal(shape, np.float32).astype(np.float16).astype(np.float32)

    width, grid = heads * dim, (1, 1, tokens)  # any angles serve; each token needs one
    video, words = (1, tokens, heads, dim), (1, text, heads, dim)
    rope = tuple(Tensor(t[None, :, None]) for t in rope_table(grid, split_v1_5(dim)))
    row = (1, 1, width)
    found = {
        "ada_norm_modulate": Case(
            lambda x, shift, scale: ada_norm_modulate(x, shift, scale, eps=1e-6),
            [draw(1, tokens, width), draw(*row), draw(*row)],
        ),
        "gated_residual": Case(gated_residual, [draw(1, tokens, width), draw(*row), draw(1, tokens, width)]),
    }
    for n in sparse:
        for group in (False, True) if n > 1 else (False,):
            name = f"n = {n}, {'group' if group else 'single'} skip"
            found[f"skiparse_permute, {name}"] = Case(
                lambda x, n=n, group=group: skiparse_permute(x, sparse_n=n, group=group), [draw(*video)]
            )
            found[f"qk_norm_rope, {name}"] = Case(
                lambda x, w, t, v, n=n, group=group: qk_norm_rope_grouped(
                    x, w, None, rope, t, v, None, norm="rms", split=split_v1_5(dim), sparse_n=n, group=group
                ),
                [draw(*video), draw(dim), draw(*words), draw(dim)],
            )
            found[f"skiparse_attention, {name}"] = Case(
                lambda q, k, v, a, b, c, n=n, group=group: skiparse_attention(
                    q, k, v, a, b, c, sparse_n=n, group=group
                ),
                [draw(*video) for _ in range(3)] + [draw(*words) for _ in range(3)],
                ("ascend_builtin",) if builtin else ("reference",),
            )
    return found


@cache
def direction(shape: tuple[int, ...]) -> Tensor:
    """The direction of the gradients; a constant one would cancel in softmax."""
    return Tensor(np.random.default_rng(1).standard_normal(shape, np.float32))


def run(case: Case, kind: str, dtype) -> Callable[[], list[Tensor]]:
    """Call the case: its value, and its gradients by all inputs along a fixed direction."""
    wide = (1, 1)  # rows that stay float32: learnt parameters, or conditioning
    inputs = [Tensor(x).astype(ms.float32 if x.ndim == 1 or x.shape[:2] == wide else dtype) for x in case.inputs]

    def loss(*inputs):
        out = case.function(*inputs)
        parts = out if isinstance(out, tuple) else (out,)
        return sum((part.astype(ms.float32) * direction(part.shape)).sum() for part in parts)

    gradient = ms.grad(loss, tuple(range(len(inputs))))

    def call(backward=True):
        os.environ[VARIABLE] = kind
        out = case.function(*inputs)
        result = list(out) if isinstance(out, tuple) else [out]
        if backward:
            gradients = gradient(*inputs)
            result += [gradients] if isinstance(gradients, Tensor) else list(gradients)
        return result

    return call


def errors(case: Case, ours: str, dtype) -> tuple[float, float]:
    """Largest error of ours and of the definition in half precision, relative to the largest number of the tensor."""
    exact = [t.asnumpy().astype(np.float64) for t in run(case, "reference", ms.float32)()]
    worst = []
    for kind in (ours, "reference"):
        results = run(case, kind, dtype)()
        worst.append(
            max(
                float(np.abs(t.astype(ms.float32).asnumpy() - e).max() / max(np.abs(e).max(), 1e-30))
                for t, e in zip(results, exact, strict=True)
            )
        )
    return worst[0], worst[1]


def milliseconds(calls: dict[str, Callable], repeats: int) -> dict[str, dict[str, dict]]:
    """Forward, and forward with backward, of each implementation; they take turns."""
    samples = {kind: {"forward": [], "forward and backward": []} for kind in calls}
    for turn in range(repeats + 2):  # the first two warm up
        for kind, call in calls.items():
            for what, backward in (("forward", False), ("forward and backward", True)):
                start = time.perf_counter()
                call(backward)[-1].asnumpy()
                if turn >= 2:
                    samples[kind][what].append(1e3 * (time.perf_counter() - start))
    return {kind: {what: receipt.spread(times) for what, times in both.items()} for kind, both in samples.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(OURS), default="Ascend")
    for name, value in (("tokens", 36864), ("text", 512), ("heads", 24), ("dim", 128), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    Runtime(device=args.device).apply()
    ours = OURS[args.device]
    on_ascend = args.device == "Ascend"
    dtypes = (ms.float16, ms.bfloat16) if on_ascend else (ms.float16,)

    checked, wrong = {}, []
    small = max(64, min(args.tokens, 1000))  # not a multiple of n^2: padding too
    for name, case in cases(small, min(args.text, 77), 2, args.dim, SPARSE, on_ascend).items():
        for dtype in dtypes:
            error, plain = errors(case, ours, dtype)
            if simulated():
                print(f"not computed {name}, {dtype}", flush=True)
                continue
            good = error <= max(2 * plain, 1e-3) and math.isfinite(error)
            checked[f"{name}, {dtype}"] = {"error": error, "definition_in_half": plain, "good": good}
            print(
                f"{'ok   ' if good else 'WRONG'} {name}, {dtype}: {error:.1e}, the definition {plain:.1e}", flush=True
            )
            wrong += [] if good else [name]

    timed = {}
    for name, case in cases(args.tokens, args.text, args.heads, args.dim, SPARSE, on_ascend).items():
        calls = {kind: run(case, kind, ms.float16) for kind in (ours, *case.others)}
        timed[name] = milliseconds(calls, args.repeats)
        for kind, times in () if simulated() else timed[name].items():
            print(
                f"{name}: {kind} {times['forward']['median']} ms forward, "
                f"{times['forward and backward']['median']} ms with backward",
                flush=True,
            )
    if on_ascend and not simulated():
        receipt.write(
            "ascend_kernels",
            ("mindspore",),
            {
                "shape": {key: getattr(args, key) for key in ("tokens", "text", "heads", "dim")},
                "checked": checked,
                "milliseconds": timed,
            },
        )
    else:
        print("tried on CPU or in simulation: no result file")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
