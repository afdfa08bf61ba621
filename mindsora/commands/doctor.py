"""`mindsora doctor`: what is wrong with this installation, and the command that mends it."""

import argparse
import json

from mindsora.audit.doctor import examine


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
        "--receipt", default="bringup.json", metavar="FILE", help="what --bringup found (default: bringup.json)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit status 1 where something is wrong."""
    if args.bringup:
        return _bring_up(args.receipt)
    findings = examine()
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for name, state, found, mend in findings:
            print(f"{state:6} {name}: {found}")
            if state != "ok" and mend:
                print(f"       mend: {mend}")
    return 1 if any(finding.state == "wrong" for finding in findings) else 0


def _bring_up(receipt: str) -> int:
    from mindsora.runtime import Runtime

    Runtime().apply()  # Ascend where there is one
    from mindsora.audit.bringup import bring_up

    return 0 if bring_up(receipt) else 1
