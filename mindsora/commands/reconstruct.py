"""`mindsora reconstruct`: any video through the autoencoder and back, side by side with the original."""

import argparse
from pathlib import Path

from mindsora.commands import arguments
from mindsora.jobs.reconstruct import DEFAULT, MAX_FRAMES, reconstruct_video
from mindsora.media import check_output, export_to_video, read_video
from mindsora.shapes import Tiling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("video", help="video (or picture) to reconstruct")
    parser.add_argument(
        "--model",
        default=DEFAULT,
        metavar="NAME|DIR",
        help=f"see `mindsora models`; DIR may be an autoencoder alone (default: {DEFAULT})",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="mp4: original left, reconstruction right (default: outputs/NAME_reconstructed.mp4)",
    )
    parser.add_argument("--height", type=int, help="multiple of 8; scaled to cover, then cropped at the centre")
    parser.add_argument("--width", type=int, help="multiple of 8 (neither: the video's own size)")
    parser.add_argument("--num-frames", type=int, help=f"the first N frames (default: all, at most {MAX_FRAMES})")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="work in overlapping square tiles of this side: less memory, nearly the same result",
    )
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Reconstruct, write the mp4 and print PSNR and SSIM. Raises InputError before anything is written."""
    runtime = arguments.runtime_of(args)
    output = check_output(args.output or f"outputs/{Path(args.video).stem}_reconstructed.mp4", [".mp4"])
    tile = None if args.tile is None else Tiling(args.tile)
    video, fps = read_video(args.video, MAX_FRAMES)
    runtime.apply()  # before the model is looked at: to read an autoencoder alone takes MindSpore
    with runtime.profiling():
        clip = reconstruct_video(video, args.model, args.height, args.width, args.num_frames, tile)
    export_to_video(clip.side_by_side, output, fps)
    measures = f"PSNR {clip.psnr:.2f} dB" + ("" if clip.ssim is None else f", SSIM {clip.ssim:.4f}")
    frames, height, width = clip.original.shape[:3]
    print(f"{args.video}: {frames} frames of {height}x{width} through {args.model}: {measures}")
    print(f"wrote {output} (original left, reconstruction right)")
