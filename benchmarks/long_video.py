"""Twenty windows of long video with nano_i2v: memory, what the windows' borders look like, drift.

    python benchmarks/long_video.py

Runs `mindsora generate --duration` twice, for 2 and for 20 windows of 17 frames, each of which is given one frame of the
window before. Every window has a prompt of its own: a circle goes to the right, and back. Peak memory is the process's
resident memory. Writes benchmarks/results/long_video_nano_i2v.json, and docs/nano_i2v_long.png, the middle of every window.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import receipt

from mindsora.media import contact_sheet, read_video
from mindsora.zoo import ModelIndex, find

MODEL, OVERLAP, SEED = "nano_i2v", 1, 0
WINDOWS = (2, 20)
PROMPTS = ("a red circle moving right on a black background", "a red circle moving left on a black background")
SHEET = receipt.ROOT / "docs" / "nano_i2v_long.png"


def generate(folder: Path, windows: int, index: ModelIndex) -> dict:
    """One video into `folder`; its length, peak memory and seconds."""
    video = folder / f"{windows}.mp4"
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(PROMPTS[number % len(PROMPTS)] + "\n" for number in range(windows)))
    frames = index.num_frames + (windows - 1) * (index.num_frames - OVERLAP)
    command = [sys.executable, "-m", "mindsora.cli", "generate", "--model", MODEL, "--prompt-file", prompts, "--output",
               video, "--duration", str(frames / index.fps), "--overlap", str(OVERLAP), "--seed", str(SEED), "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"generate ended with status {os.waitstatus_to_exitcode(status)}")
    return {"windows": windows, "frames": frames, "duration_s": frames / index.fps,
            "peak_mib": usage.ru_maxrss >> 10, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    index = ModelIndex.read(find(MODEL))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [generate(folder, windows, index) for windows in WINDOWS]
        drift = json.loads((folder / f"{WINDOWS[-1]}.mp4.drift.json").read_text())
        frames, _ = read_video(folder / f"{WINDOWS[-1]}.mp4")
    middles = frames[index.num_frames // 2 :: index.num_frames - OVERLAP]
    assert len(drift["windows"]) == len(middles) == WINDOWS[-1]
    half = len(middles) // 2
    contact_sheet([middles[:half], middles[half:]], [f"windows 1 to {half}", f"windows {half + 1} to {len(middles)}"],
                  SHEET, half)
    borders = [window["border_ratio"] for window in drift["windows"][1:]]
    receipt.write(f"long_video_{MODEL}", ("mindspore", "numpy", "av"), {
        "model": MODEL, "height": index.height, "width": index.width, "window_frames": index.num_frames,
        "overlap": OVERLAP, "seed": SEED, "prompts": PROMPTS, "runs": runs,
        "memory_growth_mib": runs[-1]["peak_mib"] - runs[0]["peak_mib"],
        "inside_difference": drift["inside_difference"], "border_ratio": receipt.spread(borders, 2),
        "worst": drift["worst"], "drift": drift["windows"],
    })


if __name__ == "__main__":
    main()
