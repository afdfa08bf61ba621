"""Measure the cost of compiling on this machine: by graph, from the compile cache, and by number of blocks.

    python benchmarks/compile_budget.py

Each number is the processor time (all threads) of a graph's first call, which compiles and runs, minus that of its
second call, in a separate process. Weights are random, since compile time does not depend on them. Writes
benchmarks/results/compile_budget.json.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plan_memory
import receipt

SIZE = (57, 64, 64)  # nano's frame size, and enough frames for two decoder graphs
STAGES = (2, 4, 8)  # blocks in each of three stages


def generate(folder: str, cache: str | None) -> dict:
    """Seconds by graph, for one call of a nano-sized model."""
    from mindsora.compile_cache import compile_cache
    from mindsora.pipelines.request import Request
    from mindsora.pipelines.text_to_video import TextToVideoPipeline
    from mindsora.runtime import Runtime

    Runtime(device="CPU").apply()
    pipe = TextToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    frames, height, width = SIZE
    request = Request.of(pipe.index, "a red circle", num_frames=frames, height=height, width=width)
    seconds = {}

    def watched(graph):
        def call(*inputs):
            start = time.process_time()
            result = graph(*inputs)
            if compiled:
                compiled.clear()
                first, start = time.process_time() - start, time.process_time()
                graph(*inputs)
                seconds[f"{graph.name} {inputs[0].shape}"] = round(first - (time.process_time() - start), 2)
            return result

        compiled = []
        graph.report = lambda name, _: compiled.append(name)
        return call

    for name in ("_encode", "_guided", "_decode"):
        setattr(pipe, name, watched(getattr(pipe, name)))
    with compile_cache(cache, pipe.graphs([request])):
        (latents,) = pipe.sample([request])
        for _ in pipe.decode_chunks(latents):
            pass
    return seconds


def blocks(number: int, once: bool, gradient: bool) -> dict:
    """A small SUV with this many blocks per stage: seconds, and the error of three compiled calls against PyNative.

    once: equal blocks compile once, as in the package; otherwise every block is compiled separately.
    """
    from mindsora.runtime import Runtime

    Runtime(device="CPU").apply()
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn

    if not once:
        importlib.import_module("mindsora.nn.compile_once").compile_once = list
    from mindsora.models.suv import SUV

    config = {
        "num_layers": [number] * 3,
        "sparse_n": [1, 2, 1],
        "num_heads": 2,
        "head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "timestep_embed_dim": 32,
        "caption_channels": 24,
        "pooled_projection_dim": 20,
    }
    model, rng = SUV.from_upstream(config), np.random.default_rng(0)
    for parameter in model.get_parameters():
        noise = 0.05 * rng.standard_normal(parameter.shape, np.float32)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    shapes = ((1, 4, 2, 4, 4), (1,), (1, 1, 8, 24), (1, 1, 20))
    arguments = [Tensor(rng.standard_normal(shape, np.float32)) for shape in shapes]

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.model = model

        def construct(self, *arguments):
            return (self.model(*arguments) ** 2).mean()

    class Gradient(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.weights = ms.ParameterTuple(model.trainable_params())
            self.gradient = ms.grad(Loss(), None, self.weights)

        def construct(self, *arguments):
            return self.gradient(*arguments)

    cell = Gradient() if gradient else model.set_train(False)

    def run(function):
        start = time.process_time()
        result = function(*arguments)
        result = [x.asnumpy() for x in (result if gradient else [result])]
        return result, time.process_time() - start

    expected, compiled = run(cell)[0], ms.jit(cell)
    calls = [run(compiled) for _ in range(3)]
    scale = max(np.abs(x).max() for x in expected)
    error = [max(np.abs(x - y).max() for x, y in zip(result, expected)) / scale for result, _ in calls]
    return {"blocks": 3 * number, "seconds": round(calls[0][1] - calls[1][1], 2), "error": [float(x) for x in error]}


def child(what: str, *arguments):
    """Run one of the functions above in a separate process."""
    command = [sys.executable, __file__, "--child", json.dumps([what, arguments])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    print(done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, arguments = json.loads(args.child)
        print(json.dumps({"generate": generate, "blocks": blocks}[what](*arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model, cache = f"{folder}/model", f"{folder}/cache"
        plan_memory.write_model(Path(model), plan_memory.NANO)
        graphs = {
            name: child("generate", model, kept)
            for name, kept in (("no_cache", None), ("writing", cache), ("reading", cache))
        }
        kept = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    suv = {
        kind: {
            form: [child("blocks", number, once, kind == "gradient") for number in STAGES]
            for form, once in (("once", True), ("each", False))
        }
        for kind in ("forward", "gradient")
    }
    receipt.write(
        "compile_budget",
        ("mindspore", "numpy"),
        {
            "unit": "s of processor time",
            "frames": SIZE[0],
            "height": SIZE[1],
            "width": SIZE[2],
            "graphs": graphs,
            "total": {name: round(sum(by_graph.values()), 2) for name, by_graph in graphs.items()},
            "cache_mb": round(kept / 1e6, 2),
            "suv": suv,
        },
    )


if __name__ == "__main__":
    main()
