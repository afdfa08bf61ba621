"""`mindsora generate`: prompts to mp4 files, or to png files for single frames, each with its manifest beside it."""

import argparse

from mindsora import runtime
from mindsora.commands import arguments, lora_option, parallel_option
from mindsora.compile_cache import chosen_folder
from mindsora.errors import InputError
from mindsora.jobs.planning import plan, read_prompts
from mindsora.pipelines.request import SOLVERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what the video shows")
    parser.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="text file with one prompt a line instead; with --duration, the shots of one video, which share its length",
    )
    refiners = "a .json of refined prompts, http://127.0.0.1:8000/v1#MODEL, a Llama's folder, mindformers:FILE.yaml"
    parser.add_argument("--refine", metavar="WITH", help=f"rewrite the prompts of text to video first: {refiners}")
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to steer away from")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help=".mp4, or .png for one frame; several clips are FILE with -PROMPT-SEED (both numbers) before the suffix; "
        "FILE.json beside each says what made it",
    )
    parser.add_argument("--model", default="nano", metavar="NAME|DIR", help="see `mindsora models` (default: nano)")
    parser.add_argument("--seed", type=arguments.seeds, metavar="N[,N...]", help="a clip per prompt and seed (0)")
    parser.add_argument("--seeds", type=arguments.seeds, metavar="N-M", help="a range, and a sheet of all clips")
    parser.add_argument("--contact-sheet", metavar="FILE", help="all clips in one .png, or moving in one .webp")
    arguments.add_size(parser, "--num-frames")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    solvers = "instead of the model's own; dpmpp_2m is of second order"
    parser.add_argument("--solver", type=arguments.one_of(SOLVERS), choices=SOLVERS, help=solvers)
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="above 1 follows the prompt more")
    parser.add_argument("--guidance-rescale", type=float, metavar="X", help="0 to 1")
    tiles = "the autoencoder works in overlapping square tiles of this side: less memory, nearly the same result"
    parser.add_argument("--tile", type=int, metavar="PIXELS", help=tiles)
    windows = "a long video of windows of --num-frames, each given the last frames of the one before; FILE.drift.json"
    parser.add_argument("--duration", type=float, metavar="SECONDS", help=f"{windows} says how far it has drifted")
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="frames that a window is given of the one before (default: about an eighth of it)",
    )
    lora_option.add_lora(parser, "--lora")
    arguments.add_given(parser)
    dtypes = "float32, float16 or bfloat16; or transformer=bfloat16,vae=float32"
    parser.add_argument("--dtype", type=arguments.dtype, metavar="NAME", help=dtypes)
    parallel_option.add_parallel(parser)
    parser.add_argument("--offload", action="store_true", help="read the model layer by layer: one larger than memory")
    parser.add_argument("--config", metavar="FILE", help="YAML with options, such as `num_frames: 121`")
    parser.add_argument("--compile-cache", metavar="DIR", help="of compiled graphs, or none (see `mindsora cache`)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no line for loading and compiling")
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Generate. Everything that can be wrong with the request is found before the model is loaded."""
    if runtime.is_msrun_scheduler():
        parallel_option.schedule(args.parallel)
        return
    policy = arguments.runtime_of(args)
    if (args.prompt is None) == (args.prompt_file is None):
        raise InputError("give either a prompt or --prompt-file")
    if args.seed and args.seeds:
        raise InputError("give either --seed or --seeds")
    if args.overlap is not None and args.duration is None:
        raise InputError(f"--overlap {args.overlap}: the windows of a long video overlap; give --duration too")
    mesh = parallel_option.joined(args.parallel, policy)
    jobs = plan(
        args.model,
        [args.prompt] if args.prompt_file is None else read_prompts(args.prompt_file),
        args.output,
        args.seed or args.seeds or [0],
        # all clips of a range of seeds, so that nobody has to trust our pick
        contact_sheet=args.contact_sheet or bool(args.seeds),
        given=arguments.given_of(args),
        loras=lora_option.loras_of(args.lora),
        refiner=args.refine,
        duration=args.duration,
        overlap=args.overlap,
        rank=runtime.rank() if mesh is None else mesh.dp.rank,
        world=runtime.world() if mesh is None else mesh.dp.size,
        negative_prompt=args.negative_prompt,
        num_frames=args.num_frames,
        height=args.height,
        width=args.width,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        guidance_rescale=args.guidance_rescale,
        tile=args.tile,
        solver=args.solver,
    )
    args.compile_cache = chosen_folder(args.compile_cache)
    if mesh is None:
        policy.apply()

    from mindsora.jobs.running import run as write  # imports MindSpore, whose settings `apply` has just made

    for written in write(
        jobs,
        policy,
        dtype=args.dtype,
        offload=args.offload,
        cache=args.compile_cache,
        quiet=args.quiet or runtime.rank() > 0,
        command=args.command,
        mesh=mesh,
    ):
        print(written.path, flush=True)
    parallel_option.leave(mesh)
