"""`mindsora convert`: any checkpoint of the line into any of its formats."""

import argparse
import sys

from mindsora.ckpt_convert.conversion import TARGETS, Report, convert
from mindsora.ckpt_convert.dtypes import CASTS
from mindsora.commands import arguments, lora_option
from mindsora.models import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("source", help="checkpoint: a file, an index, or a folder")
    parser.add_argument("target", help="file, or folder for weights and config.json; must not exist")
    parser.add_argument(
        "--to",
        choices=TARGETS,
        type=arguments.one_of(TARGETS),
        help="default: by the target's ending; a folder: diffusers",
    )
    models = ("auto", *registry.names())
    parser.add_argument(
        "--model",
        default="auto",
        choices=models,
        type=arguments.one_of(models),
        help="default: recognised by its names",
    )
    parser.add_argument("--tp", type=int, metavar="N", help="tensor-parallel ranks of a mindspeed-mm target")
    parser.add_argument(
        "--dtype",
        choices=tuple(CASTS),
        type=arguments.one_of(CASTS),
        help="for all floating-point tensors (default: unchanged)",
    )
    arguments.add_ema(parser)
    lora_option.add_lora(parser, "--merge-lora")
    parser.add_argument("--allow-nonfinite", action="store_true", help="copy infinite values and NaN")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was read and written."""
    report = convert(
        args.source,
        args.target,
        to=args.to,
        model=args.model,
        tp=args.tp,
        dtype=args.dtype,
        ema=args.ema,
        allow_nonfinite=args.allow_nonfinite,
        loras=[(lora.file, lora.scale) for lora in lora_option.loras_of(args.lora)],
        progress=not args.quiet and sys.stderr.isatty(),
    )
    print("\n".join(_lines(report, args)))


def _lines(report: Report, args: argparse.Namespace) -> list[str]:
    inside = f" in {report.wrapper}" if report.wrapper else ""
    lines = [f"{args.source}: {report.model}, {report.container}{inside}, {report.names} names"]
    if report.dropped:
        more = " ..." if len(report.dropped) > 6 else ""
        lines.append(
            f"dropped {len(report.dropped)} tensors that are no weights of {report.model}: "
            f"{', '.join(report.dropped[:6])}{more}"
        )
    if report.assumed:
        values = ", ".join(f"{key} = {value}" for key, value in report.assumed.items())
        lines.append(f"neither in the weights nor in a config.json, so assumed: {values}")
    lines += [f"merged {text}" for text in args.lora]
    if args.dtype:
        lines.append(f"{args.dtype}: {report.changed:,} elements were rounded, {report.overflowed:,} became infinite")
    lines += [f"warning: {warning}" for warning in report.warnings]
    size, speed = report.nbytes / 1e9, report.nbytes / 1e9 / max(report.seconds, 1e-9)
    lines.append(f"wrote {args.target} ({report.to}): {report.tensors} tensors, {size:.3f} GB, {speed:.2f} GB/s")
    return lines
