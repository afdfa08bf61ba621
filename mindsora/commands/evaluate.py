"""`mindsora evaluate`: measure clips that a model makes, or that anybody made; compare two reports; rate by people."""

import argparse
import importlib
from pathlib import Path

from mindsora.commands import arguments, lora_option
from mindsora.errors import InputError, shown
from mindsora.evaluate.registry import MODULES, PROMPTED

NAMES = (*PROMPTED, *MODULES, "report", "rate")
OPTIONS = ("protocol", "through_codec", "export", "import")  # of one evaluation each, which refuses those of others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument(
        "name",
        choices=NAMES,
        type=arguments.one_of(NAMES),
        help="an evaluation (see docs/evaluation.md), report: two side by side, or rate: pairs for people",
    )
    parser.add_argument("reports", nargs="*", metavar="REPORT", help="report: two; rate: a folder of models' folders")
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="rate: of the page (default: 8765)")
    parser.add_argument("--model", metavar="NAME|DIR", help="makes the clips (default: the evaluation's own)")
    parser.add_argument("--videos", metavar="DIR", help="a folder of clips made by anybody, instead of --model")
    lora_option.add_lora(parser, "--lora")
    parser.add_argument("--output", metavar="DIR", help="for clips, manifests, report.json and report.html")
    parser.add_argument("--prompts", metavar="FILE", help="another file of items")
    parser.add_argument("--judge", action="append", default=[], metavar="NAME=FILE", help="file of a judging network")
    parser.add_argument("--protocol", metavar="NAME", help="autoencoder: native (default) or paper")
    parser.add_argument("--through-codec", action="store_true", help="autoencoder: compare what mp4 files hold")
    parser.add_argument("--export", metavar="DIR", help="vbench: write the clips as the original VBench reads them")
    parser.add_argument("--import", metavar="FILE", help="vbench: results of the original VBench, instead of clips")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps, instead of the model's own")
    parser.add_argument("--guidance", type=float, metavar="X", help="guidance scale, instead of the model's own")
    arguments.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; exit status 1 where a threshold is not reached or the report is not complete."""
    if args.name == "report":
        return _compare(args)
    if args.name == "rate":
        return importlib.import_module("mindsora.evaluate.rating_server").serve(args.reports, args.port)
    if args.reports:
        raise InputError(f"{shown(args.reports[0])} follows {args.name}; only `evaluate report` and `rate` take files")
    if args.output is None:
        raise InputError(f"`mindsora evaluate {args.name}` needs --output DIR")
    return _prompted(args) if args.name in PROMPTED else _evaluate(args)


def _evaluate(args: argparse.Namespace) -> int:
    from mindsora.evaluate import registry, report
    from mindsora.evaluate.evaluation import Asked
    from mindsora.evaluate.running import PAGE, REPORT, evaluate
    from mindsora.media import check_output

    evaluation, output = registry.find(args.name), Path(args.output)
    check_output(output / REPORT, [".json"])
    policy = arguments.runtime_of(args)
    policy.apply()
    asked = Asked(
        output,
        model=args.model or (None if args.videos and evaluation.source is None else evaluation.model),
        videos=args.videos and Path(args.videos),
        items=args.prompts and Path(args.prompts),
        judges=dict(_judge(text) for text in args.judge),
        settings=_given(args, {"steps": "num_inference_steps", "guidance": "guidance_scale"}),
        options=_given(args, {name: name for name in OPTIONS}),
        loras=lora_option.loras_of(args.lora),
        policy=policy,
        command=args.command,
    )
    content = evaluate(evaluation, asked)
    if content is None:
        print("this rank's clips are made; the rank that ends last writes the report")
        return 0
    print("\n".join(report.lines(content)))
    print(f"{output / REPORT}, {output / PAGE}")
    return 0 if report.reached(content) and content["complete"] else 1


def _judge(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"--judge {shown(text)}: write NAME=FILE, such as lpips=alexnet-owt-7be5be79.pth")
    return name, Path(path)


def _given(args: argparse.Namespace, names: dict[str, str]) -> dict:
    """Name -> value of the options that the command line has."""
    values = {name: getattr(args, option) for option, name in names.items()}
    return {name: value for name, value in values.items() if value not in (None, False)}


def _prompted(args: argparse.Namespace) -> int:
    from mindsora.evaluate import prompted

    if args.videos or args.judge:
        raise InputError(f"`mindsora evaluate {args.name}` makes its clips itself: it takes no --videos and no --judge")
    policy, loras = arguments.runtime_of(args), lora_option.loras_of(args.lora)
    given = args.prompts, args.model, Path(args.output)
    return 0 if prompted.evaluate(args.name, *given, policy, args.steps, args.guidance, loras) else 1


def _compare(args: argparse.Namespace) -> int:
    from mindsora.evaluate import report

    if len(args.reports) != 2:
        raise InputError(f"`mindsora evaluate report` compares two reports, not {len(args.reports)}")
    first, second = map(report.read, args.reports)
    print("\n".join(report.compared_lines(report.compare(first, second))))
    if args.output:
        print(report.write_compared(args.output, args.reports, (first, second)))
    return 0
