"""`mindsora curate`: from a folder of raw videos to a training set of which every drop has a reason."""

import argparse
from pathlib import Path

from mindsora.errors import InputError

ACTIONS = {
    "run": "score the videos in FOLDER into --output and decide; run again, it goes on where it was",
    "decide": "decide over the scores of the curation OUT under --set section.key=value; nothing is scored again",
    "report": "write OUT/report.html: what every step keeps, scores, pictures, speed",
    "clips": "write every clip that stays as a file of its own, re-encoded and cropped, with annotations, into OUT/clips",
    "sample": "show clips of the curation OUT with one --reason, as lines and as a contact sheet",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"  {name:7} {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, help="one of those below")
    parser.add_argument("folder", metavar="FOLDER|OUT", help="run: the videos; otherwise: the output of a run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="run, decide: a setting, such as motion.max=0.25; may stand several times",
    )
    parser.add_argument(
        "--reason", default="kept", metavar="STEP", help="sample: kept, or the step that drops the clips"
    )
    parser.add_argument("--count", type=int, default=12, metavar="N", help="sample: clips (default: 12)")
    group = parser.add_argument_group("run")
    group.add_argument("--output", metavar="OUT", help="where scores and annotations go")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="cores of this machine (default: 1)")
    group.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster instead of this machine")
    group.add_argument("--shard", type=int, default=16, metavar="N", help="files of one task (default: 16)")
    group.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=FILE.py@SHA256",
        help="a judge for aesthetic, technical, watermark or unsafe; or unsafe=nudenet, watermark=words",
    )
    group.add_argument(
        "--captions", metavar="files|URL", help="captions beside the videos, or an endpoint as of OpenAI"
    )
    group.add_argument("--caption-model", default="", metavar="NAME", help="what the endpoint calls its model")
    group.add_argument("--licence", default="", metavar="TEXT", help="of all videos in FOLDER")
    group.add_argument("--source", default="", metavar="TEXT", help="where the videos come from")
    group.add_argument("--seconds", type=float, default=300, metavar="S", help="of a stage for a clip (default: 300)")


def run(args: argparse.Namespace) -> int:
    """Call the action and print what it found."""
    return {"run": _run, "decide": _decide, "report": _report, "clips": _clips, "sample": _sample}[args.action](args)


def _run(args: argparse.Namespace) -> int:
    from mindsora.curate import curation, judges
    from mindsora.curate.settings import Measures, Rules, changed
    from mindsora.curate.stages import Plan

    if not args.output:
        raise InputError("`mindsora curate run` writes into a folder: --output OUT")
    if args.workers < 1 or args.shard < 1 or not args.seconds > 0:
        raise InputError("--workers, --shard and --seconds must be above 0")
    measures, rules = changed(Measures(), Rules(), args.set)
    named = dict(judges.parse(text) for text in args.judge)
    captions = {"captioner": args.captions, "model": args.caption_model}
    folders = str(Path(args.folder).absolute()), str(Path(args.output).absolute())
    about = {"licence": args.licence, "source": args.source, "seconds": args.seconds}
    plan = Plan(*folders, measures, rules, named, **(captions | about))
    _print(curation.run(plan, args.workers, args.ray_address, args.shard), args.output)
    return 0


def _decide(args: argparse.Namespace) -> int:
    from mindsora.curate import curation

    _print(curation.decide_again(args.folder, args.set), args.folder)
    return 0


def _report(args: argparse.Namespace) -> int:
    from mindsora.curate import curation, report

    print(report.report(curation.opened(args.folder)))
    return 0


def _clips(args: argparse.Namespace) -> int:
    from mindsora.curate import curation, writing

    print(writing.write_clips(curation.opened(args.folder)))
    return 0


def _sample(args: argparse.Namespace) -> int:
    from mindsora.curate import curation, sheets

    lines, sheet = sheets.sample(curation.opened(args.folder), args.reason, args.count)
    print("\n".join([*lines, *([str(sheet)] if sheet else [])]))
    return 0


def _print(funnel: dict, output: str) -> None:
    from mindsora.curate.decide import KEPT, MERGE_FILE
    from mindsora.curate.report import FUNNEL_HEAD, funnel_rows, text_table

    print(text_table(FUNNEL_HEAD, funnel_rows(funnel)))
    print(f"{Path(output) / MERGE_FILE}, {Path(output) / KEPT}.jsonl")
