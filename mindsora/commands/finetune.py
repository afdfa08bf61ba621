"""`mindsora finetune`: adapt a model to a folder of clips."""

import argparse

from mindsora.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--model", default="nano", metavar="NAME|DIR", help="the model to adapt (default: nano)")
    parser.add_argument(
        "--data", required=True, metavar="FOLDER", help="videos with captions beside them: cat.mp4 and cat.txt"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="for the LoRA, or with --full the model; a training that stopped there goes on",
    )
    parser.add_argument(
        "--keep",
        metavar="FILE",
        help="prompts, one a line, of what the model must not forget: it draws them first and is trained on them too",
    )
    parser.add_argument("--full", action="store_true", help="train all weights of the denoiser, not a LoRA")
    parser.add_argument("--rank", type=int, default=8, metavar="N", help="of the LoRA (default: 8)")
    parser.add_argument("--alpha", type=float, metavar="X", help="the LoRA's scale is alpha / rank (default: the rank)")
    parser.add_argument(
        "--targets",
        metavar="NAME[,NAME...]",
        help="ends of upstream's names of linear layers, such as to_q,ff.net.2 (default: the attention's projections)",
    )
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="(default: 300)")
    parser.add_argument("--batch", type=int, metavar="N", help="clips per step (default: 4096 tokens, at most 8 clips)")
    parser.add_argument("--lr", type=float, metavar="X", help="highest learning rate (default: by the model's width)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    arguments.add_size(parser, "--num-frames")
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> None:
    """Train, and print how to use the result."""
    policy = arguments.runtime_of(args)
    policy.apply()

    from mindsora.train.finetune import FineTuning, finetune  # imports MindSpore, whose settings `apply` has just made

    names = ("model", "data", "output", "keep", "full", "rank", "alpha", "steps", "batch", "lr", "seed")
    options = {name: getattr(args, name) for name in (*names, "num_frames", "height", "width")}
    targets = tuple(args.targets.split(",")) if args.targets else None
    with policy.profiling():
        result = finetune(FineTuning(**options, targets=targets))
    use = f"--model {result}" if args.full else f"--model {args.model} --lora {result}"
    print(f"mindsora generate PROMPT {use} --output clip.mp4", flush=True)
