"""`mindsora doctor`: what is wrong with this installation, and the command that mends it."""

import argparse
import json

from mindsora.audit.doctor import examine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit status 1 where something is wrong."""
    findings = examine()
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for name, state, found, mend in findings:
            print(f"{state:6} {name}: {found}")
            if state != "ok" and mend:
                print(f"       mend: {mend}")
    return 1 if any(finding.state == "wrong" for finding in findings) else 0
