"""The option of LoRA files that several commands share."""

import argparse

from mindsora.pipelines.lora_file import LoRAFile


def add_lora(parser: argparse.ArgumentParser, option: str) -> None:
    """The option that `loras_of` reads."""
    parser.add_argument(
        option,
        dest="lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="a LoRA for the denoiser, in PEFT's or diffusers' layout, and how much of it (default: 1); several add up",
    )


def loras_of(texts: list[str]) -> tuple[LoRAFile, ...]:
    return tuple(map(LoRAFile.parse, texts))
