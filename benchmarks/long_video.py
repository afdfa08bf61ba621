"""Measure long videos of nano_i2v: memory, differences at window borders, and drift.

    python benchmarks/long_video.py

Runs `mindsora generate --duration` for 2, 20 and 40 windows of 17 frames, with the default overlap (whole latent
frames) and with one frame. Every window has its own prompt: a circle moves to the right and back. Peak memory is the
process's resident memory. Writes benchmarks/results/long_video_nano_i2v.json with borders and drift of the 20 windows,
and docs/nano_i2v_long.png with the middle frame of each of them.
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

MODEL, SEED = "nano_i2v", 0
OVERLAPS = (9, 1)  # the first is the default for 17-frame windows
WINDOWS, SHOWN = (2, 20, 40), 20
PROMPTS = ("a red circle moving right on a black background", "a red circle moving left on a black background")
SHEET = receipt.ROOT / "docs" / "nano_i2v_long.png"


def generate(video: Path, overlap: int, windows: int, index: ModelIndex) -> dict:
    """Generate one video: its length, peak memory and seconds."""
    prompts = video.with_suffix(".txt")
    prompts.write_text("".join(PROMPTS[number % len(PROMPTS)] + "\n" for number in range(windows)))
    frames = index.num_frames + (windows - 1) * (index.num_frames - overlap)
    command = [
        sys.executable,
        "-m",
        "mindsora.cli",
        "generate",
        "--model",
        MODEL,
        "--prompt-file",
        prompts,
        "--output",
        video,
        "--duration",
        str(frames / index.fps),
        "--seed",
        str(SEED),
        "--quiet",
    ]
    if overlap != OVERLAPS[0]:
        command += ["--overlap", str(overlap)]
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"generate ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "windows": windows,
        "frames": frames,
        "duration_s": frames / index.fps,
        "peak_mib": usage.ru_maxrss >> 10,
        "seconds": round(time.perf_counter() - start, 1),
    }


def measure(folder: Path, overlap: int, index: ModelIndex) -> tuple[dict, list]:
    """All lengths with one overlap, and the middle frame of each of the SHOWN windows."""
    video = {windows: folder / f"{overlap}_{windows}.mp4" for windows in WINDOWS}
    runs = [generate(video[windows], overlap, windows, index) for windows in WINDOWS]
    drift = json.loads(video[SHOWN].with_name(f"{video[SHOWN].name}.drift.json").read_text())
    middles = read_video(video[SHOWN])[0][index.num_frames // 2 :: index.num_frames - overlap][:SHOWN]
    assert len(drift["windows"]) == len(middles) == SHOWN
    borders = [window["border_ratio"] for window in drift["windows"][1:]]
    growth = (runs[-1]["peak_mib"] - runs[1]["peak_mib"]) / (WINDOWS[-1] - WINDOWS[1])
    return {
        "overlap": overlap,
        "runs": runs,
        "growth_mib_per_window": round(growth, 2),
        "inside_difference": drift["inside_difference"],
        "border_ratio": receipt.spread(borders, 2),
        "worst": drift["worst"],
        "drift": drift["windows"],
    }, middles


def main() -> None:
    index = ModelIndex.read(find(MODEL))
    with tempfile.TemporaryDirectory() as folder:
        rows, middles = zip(*(measure(Path(folder), overlap, index) for overlap in OVERLAPS))
    half = SHOWN // 2
    contact_sheet(
        [part for row in middles for part in (row[:half], row[half:])],
        [
            f"overlap {overlap}, windows {first} to {first + half - 1}"
            for overlap in OVERLAPS
            for first in (1, half + 1)
        ],
        SHEET,
        half,
    )
    receipt.write(
        f"long_video_{MODEL}",
        ("mindspore", "numpy", "av"),
        {
            "model": MODEL,
            "height": index.height,
            "width": index.width,
            "window_frames": index.num_frames,
            "seed": SEED,
            "prompts": PROMPTS,
            "overlaps": rows,
        },
    )


if __name__ == "__main__":
    main()
