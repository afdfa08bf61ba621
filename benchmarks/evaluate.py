"""Measure how fast clips are judged, and that memory does not grow with their number.

    python benchmarks/evaluate.py

Judges folders of drawn clips of 17 x 64 x 64 with `mindsora evaluate vbench`, without networks: optical flow,
flickering, previews, intervals and the page. Each folder in a process of its own. The status is 1 if 64 clips take more
than a minute or if the peak memory of the largest folder exceeds that of the smallest by more than a tenth.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import receipt

from mindsora.data.toy.procedural import FPS, clip
from mindsora.media import export_to_video

COUNTS = (16, 64, 256)
LIMIT_SECONDS, LIMIT_GROWTH = 60, 1.1
PROGRAM = """
import json, sys, time
from pathlib import Path
from mindsora.evaluate.evaluation import Asked
from mindsora.evaluate.registry import find
from mindsora.evaluate.running import evaluate
from mindsora.machine import resident_memory
start = time.perf_counter()
content = evaluate(find("vbench"), Asked(Path(sys.argv[2]), videos=Path(sys.argv[1])))
print(json.dumps({"clips": content["items"], "seconds": round(time.perf_counter() - start, 1),
                  "peak_memory_bytes": resident_memory()["peak"]}))
"""


def judged(count: int, folder: Path) -> dict:
    """Seconds and peak memory of a process that judges `count` clips."""
    videos = folder / f"videos{count}"
    videos.mkdir()
    for number in range(count):
        export_to_video(clip(number, "heldout")[0], videos / f"{number:03d}.mp4", FPS)
    command = [sys.executable, "-c", PROGRAM, str(videos), str(folder / f"out{count}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        runs = [judged(count, Path(folder)) for count in COUNTS]
    growth = runs[-1]["peak_memory_bytes"] / runs[0]["peak_memory_bytes"]
    seconds = next(run["seconds"] for run in runs if run["clips"] == 64)
    numbers = {"runs": runs, "memory_growth": round(growth, 3)}
    receipt.write("evaluate", ("numpy", "opencv-python-headless", "av"), numbers)
    return int(seconds > LIMIT_SECONDS or growth > LIMIT_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
