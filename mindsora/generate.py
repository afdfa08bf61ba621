"""`mindsora generate`: prompts to mp4 files, or to png files for single frames, each with its manifest beside it."""

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mindsora
from mindsora import runtime, zoo
from mindsora.compile_cache import check_folder, compile_cache
from mindsora.errors import InputError
from mindsora.pipelines.given_files import GivenFiles
from mindsora.pipelines.request import Request
from mindsora.runtime import Runtime

PROMPT_LIMIT = 1000  # lines in a prompt file, as upstream
SEED_LIMIT = 1000  # seeds in one range


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options that `run` reads."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the video shows")
    parser.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="text file with one prompt a line instead; with --duration, the lines are the shots of "
        "one video, which share its length evenly, in order",
    )
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to steer away from")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help=".mp4, or .png for one frame; several clips are FILE with -PROMPT-SEED (both numbers) before the suffix; "
        "FILE.json beside each says what made it",
    )
    parser.add_argument("--model", default="nano", metavar="NAME|DIR", help="see `mindsora models` (default: nano)")
    parser.add_argument("--seed", type=_seeds, metavar="N[,N...]", help="one clip per prompt and seed (default: 0)")
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="N-M",
        help="a range of seeds such as 0-7, and a contact sheet of all clips",
    )
    parser.add_argument("--contact-sheet", metavar="FILE", help="also write a few frames of every clip to one .png")
    parser.add_argument("--num-frames", type=int, metavar="N")
    parser.add_argument("--height", type=int, metavar="N")
    parser.add_argument("--width", type=int, metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="above 1 follows the prompt more")
    parser.add_argument("--guidance-rescale", type=float, metavar="X", help="0 to 1")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="the autoencoder works in overlapping square tiles of this side: less memory, nearly the same result",
    )
    parser.add_argument(
        "--duration",
        type=float,
        metavar="SECONDS",
        help="a long video, made window after window: each of --num-frames, and given the last frames "
        "of the one before; FILE.drift.json says how far it has drifted",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="frames that a window is given of the one before (default: about an eighth of it)",
    )
    GivenFiles.add_arguments(parser)
    parser.add_argument(
        "--dtype",
        type=dtype_argument,
        metavar="NAME",
        help="float32, float16 or bfloat16; or transformer=bfloat16,vae=float32",
    )
    parser.add_argument("--offload", action="store_true", help="read the model layer by layer: one larger than memory")
    parser.add_argument("--config", metavar="FILE", help="YAML with options, such as `num_frames: 121`")
    parser.add_argument("--compile-cache", metavar="DIR", help="keep compiled graphs in DIR for the next run like this")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no line for loading and compiling")
    Runtime.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Generate. Everything that can be wrong with the request is found before the model is loaded."""
    if runtime.is_msrun_scheduler():
        return  # the ranks share no tensors, so there is nothing to schedule
    policy = Runtime.from_arguments(args)
    index = zoo.ModelIndex.read(zoo.find(args.model))
    prompts = _prompts(args)
    if args.seed and args.seeds:
        raise InputError("give either --seed or --seeds")
    seeds = args.seed or args.seeds or [0]
    one_frame = args.num_frames is None and args.duration is None and Path(args.output).suffix.lower() == ".png"
    options = {
        "negative_prompt": args.negative_prompt,
        "num_frames": 1 if one_frame else args.num_frames,
        "height": args.height,
        "width": args.width,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "guidance_rescale": args.guidance_rescale,
        "tile": args.tile,
    }
    files = GivenFiles.from_arguments(args)
    checked = [Request.of(index, prompts, seed=seed, **options) for seed in seeds]
    given = files.read(index, checked[0].size)
    record = files.record(given)
    if args.duration is not None:
        from mindsora.pipelines.long_video import LongVideo

        lasting = args.duration, args.overlap, files.noise_strength
        clips = [LongVideo.lasting(index, request.showing(index, given), *lasting) for request in checked]
    elif args.overlap is not None:
        raise InputError(f"--overlap {args.overlap}: the windows of a long video overlap; give --duration too")
    else:
        clips = [
            Request.of(index, prompt, seed=seed, **options).showing(index, given, files.noise_strength)
            for prompt in prompts
            for seed in seeds
        ]

    from mindsora.media import check_output, contact_sheet, picked, spread

    frames = clips[0].num_frames
    output = check_output(args.output, [suffix_of(clips[0])])
    paths = (
        [
            output.with_name(f"{output.stem}-{n // len(seeds):03d}-{clip.seed}{output.suffix}")
            for n, clip in enumerate(clips)
        ]
        if len(clips) > 1
        else [output]
    )
    sheet = args.contact_sheet
    if sheet is None and args.seeds:
        sheet = output.with_name(f"{output.stem}-seeds.png")  # all of them, so that nobody need take our pick on trust
    sheet = _of_rank(check_output(sheet, [".png"])) if sheet else None
    if sheet and sheet.name in {path.name for path in paths} and sheet.parent.resolve() == output.parent.resolve():
        raise InputError(
            f"contact sheet {str(sheet)!r} would replace a clip of that name; name another file, such as "
            f"{str(output.with_name(f'{output.stem}-sheet.png'))!r}"
        )
    check_folder(args.compile_cache)
    policy.apply()

    from mindsora import manifest

    start = time.perf_counter()
    pipeline = getattr(mindsora, index.pipeline)
    pipe = pipeline.from_pretrained(args.model, dtype=args.dtype, jit=policy.jit, offload=args.offload)
    quiet = args.quiet or runtime.rank() > 0
    pipe.set_progress_bar_config(disable=quiet)
    loading = time.perf_counter() - start
    if not quiet:
        print(f"loaded {args.model} in {loading:.1f} s", file=sys.stderr)
    shared = {
        "command": args.command, "prompts": len(prompts), "seeds": seeds, "contact_sheet": sheet.name if sheet else None,
    }  # fmt: skip
    recorder = manifest.Recorder(args.model, args.dtype, zoo.find(args.model), pipe, policy, shared, loading)
    shown_clips, labels, names = [], [], []
    own = [n for n in range(len(clips)) if n // len(seeds) % runtime.world() == runtime.rank()]
    clips = [clips[n] for n in own]
    graphs = args.compile_cache and [manifest.stack(policy, pipe, {}), pipe.graphs(clips), runtime.rank()]
    with policy.profiling(), compile_cache(args.compile_cache, graphs):
        for n, clip, (pieces, drift) in zip(own, clips, made(pipe, clips)):
            shown = []
            pieces = picked(pieces, spread(frames) if sheet else [], shown)
            recorder.write(paths[n], clip, pieces, drift, n // len(seeds), record)
            print(paths[n], flush=True)
            if sheet:
                names.append(paths[n].name)
                shown_clips.append(shown)
                text = " | ".join(clip.prompts)
                labels.append(f"{text} (seed {clip.seed})" if len(seeds) > 1 or args.seeds else text)
    if shown_clips:
        print(contact_sheet(shown_clips, labels, sheet), flush=True)
        recorder.write_sheet(sheet, names)


def suffix_of(clip: Request) -> str:
    """How the file of a clip ends, by the frames that are written. clip: a Request for one clip, or a LongVideo."""
    return ".png" if clip.num_frames == 1 else ".mp4"


def made(pipe, clips: Sequence) -> Iterator[tuple[Iterator, object]]:
    """The frames of each clip in turn, as they are made.

    Args:
        pipe: the pipeline of the model.
        clips: Requests for one clip each, or LongVideos.

    Yields:
        Pieces (n, H, W, 3) uint8 of a clip; and the Drift of a LongVideo, whole when the pieces have passed, or None.
    """
    from mindsora.media import to_uint8
    from mindsora.pipelines.drift import Drift
    from mindsora.pipelines.long_video import LongVideo, stream

    if clips and isinstance(clips[0], LongVideo):
        for video in clips:
            drift = Drift()
            yield stream(pipe, video, drift), drift
    else:
        for clip, latents in zip(clips, pipe.sample(clips)):
            yield map(to_uint8, pipe.decode_chunks(latents, clip.tile)), None


def _seeds(text: str) -> list[int]:
    """0,1,2 or 0-7, or both mixed; each seed once."""
    seeds = []
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(-?\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not bounds:
            raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers separated by commas, such as 0,1,2 or 0-7")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if not first <= last < first + SEED_LIMIT:
            raise argparse.ArgumentTypeError(f"{part!r} must go up, and by {SEED_LIMIT} seeds at most, such as 0-7")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def dtype_argument(text: str) -> str | dict[str, str]:
    if "=" not in text:
        return text
    return dict(part.split("=", 1) if "=" in part else (part, "") for part in text.split(","))


def _prompts(args: argparse.Namespace) -> list[str]:
    if (args.prompt is None) == (args.prompt_file is None):
        raise InputError("give either a prompt or --prompt-file")
    if args.prompt is not None:
        return [args.prompt]
    try:
        lines = Path(args.prompt_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"cannot read prompt file {args.prompt_file!r}: {reason}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not 1 <= len(prompts) <= PROMPT_LIMIT:
        raise InputError(f"prompt file {args.prompt_file!r} has {len(prompts)} prompts: give 1 to {PROMPT_LIMIT}")
    return prompts


def _of_rank(path: Path) -> Path:
    """The same name with the rank in it, where there is more than one rank."""
    return path.with_name(f"{path.stem}-rank{runtime.rank()}{path.suffix}") if runtime.world() > 1 else path
