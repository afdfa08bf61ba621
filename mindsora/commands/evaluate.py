"""`mindsora evaluate`: whether a model's clips show what their prompts say."""

import argparse
import importlib
from pathlib import Path

from mindsora.commands import arguments, lora_option

NAMES = ("obedience", "inpainting", "orange")  # modules of mindsora.evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument(
        "name",
        choices=NAMES,
        type=arguments.one_of(NAMES),
        help="of text to video: obedience; of given frames: inpainting; of a fine-tuning on a new colour: orange",
    )
    parser.add_argument("--model", metavar="NAME|DIR", help="(default: nano, or nano_i2v for inpainting)")
    lora_option.add_lora(parser, "--lora")
    parser.add_argument("--output", required=True, metavar="DIR", help="for results.json and contact_sheet.png")
    parser.add_argument("--prompts", metavar="FILE", help="another prompt file")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps, instead of the model's own")
    parser.add_argument("--guidance", type=float, metavar="X", help="guidance scale, instead of the model's own")
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; exit status 1 where a threshold is not reached."""
    from mindsora.evaluate.prompted import RESULTS, SHEET
    from mindsora.evaluate.prompted import run as measure
    from mindsora.media import check_output

    evaluation = importlib.import_module(f"mindsora.evaluate.{args.name}").EVALUATION
    content, folder = evaluation.read(args.prompts or evaluation.prompts), Path(args.output)
    check_output(folder / SHEET, [".png"])
    policy = arguments.runtime_of(args)
    policy.apply()
    model, loras = args.model or evaluation.model, lora_option.loras_of(args.lora)
    reached = measure(evaluation, model, folder, content, policy, args.steps, args.guidance, loras)
    print(f"{folder / RESULTS}, {folder / SHEET}")
    return 0 if reached else 1
