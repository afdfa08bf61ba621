"""`mindsora doctor`: what is wrong with this installation, and the command that mends it."""

import argparse
import json

from mindsora.audit.doctor import Finding, examine
from mindsora.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--bringup",
        action="store_true",
        help="the first hour on an Atlas: products, operators, attention, every model, memory, timing and a clip, "
        "up to the first failure",
    )
    parser.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="start N processes here, one per card: equal versions, equal weights, speed of an all-reduce; "
        "under msrun, check its N processes",
    )
    parser.add_argument("--weights", metavar="PATH", help="with --ranks: a file or folder that every rank must share")
    parser.add_argument(
        "--receipt", default="bringup.json", metavar="FILE", help="what --bringup found (default: bringup.json)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit status 1 where something is wrong."""
    if args.bringup:
        return _bring_up(args.receipt)
    if args.ranks is not None or args.weights is not None:
        return _ranks(args)
    return _show(examine(), args.json)


def _show(findings: list[Finding], as_json: bool) -> int:
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for name, state, found, mend in findings:
            print(f"{state:6} {name}: {found}")
            if state != "ok" and mend:
                print(f"       mend: {mend}")
    return 1 if any(finding.state == "wrong" for finding in findings) else 0


def _ranks(args: argparse.Namespace) -> int:
    if args.ranks is None or args.ranks < 2:
        raise InputError(f"ranks {args.ranks}: give --ranks a number from 2")
    from mindsora import runtime

    started = runtime.under_msrun() or runtime.is_msrun_scheduler()
    if started:
        runtime.Runtime().apply()
    from mindsora.audit import ranks

    if not started:
        return _show(ranks.start(args.ranks, args.weights), args.json)
    if runtime.is_msrun_scheduler():
        from mindsora.parallel.launch import serve

        serve()
        return 0
    findings = ranks.check(args.ranks, args.weights)
    if runtime.rank() == 0 and args.json:
        print(json.dumps(findings), flush=True)  # one line: `ranks.start` reads it
        return 0
    return _show(findings if runtime.rank() == 0 else [], False)


def _bring_up(receipt: str) -> int:
    from mindsora.runtime import Runtime

    Runtime().apply()  # Ascend where there is one
    from mindsora.audit.bringup import bring_up

    return 0 if bring_up(receipt) else 1
