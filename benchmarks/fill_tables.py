"""Fill the measured numbers of README and docs from the receipts in benchmarks/results, their only source.

    python benchmarks/fill_tables.py            # fill them in
    python benchmarks/fill_tables.py --check    # status 1 and a list if a number differs from its receipt

A number stands between two comments that name its receipt, the keys in it, and how to print it:

    | WF-VAE on held-out clips | <!--=reconstruct_nano held_out_procedural.mean_psnr_db .2f-->30.05<!--/--> dB |

Without a receipt, the text is "not measured". `seconds/60 .1f` divides by 60 before printing. A number with a unit of
measurement (dB, s, GB/s, ...) outside of such comments is an error, unless a comment on its line names the source:
<!--from: computed by `mindsora plan`-->. A page with only computed numbers has one comment:
<!--all from: computed by benchmarks/ascend_roofline.py-->.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DOCUMENTS = ("README.md", "docs/*.md", "recipes/**/README.md", "mindsora/**/README.md")
ABSENT = "not measured"

CODE = r"^(?P<fence>```|~~~).*?^(?P=fence)|`[^`\n]*`"  # not checked
MARKED = re.compile(rf"(?P<code>{CODE})|<!--=(?P<spec>[^>]*?)-->(?P<text>.*?)<!--/-->", re.DOTALL | re.MULTILINE)
SPEC = re.compile(r"(?P<receipt>\w+) (?P<keys>[\w.]+)(?:/(?P<divisor>[\d.e]+))? (?P<form>,?\.\d+[f%g]|,?d|s)")
STATED = re.compile(r"<!--from: [^>]+-->")
STATED_ONCE = re.compile(r"<!--all from: [^>]+-->")
# Units of measurements. The line of a counted or chosen number says so.
UNITS = "dB|%|(?:milli)?seconds?|minutes?|hours?|ms|s|min|h|(?:x|times) faster|[KMGT]i?B(?:/s)?|[GTP]FLOPs?(?:/s)?|it/s"
MEASURED = re.compile(rf"(?<![\w.-])\d[\d,.]*\s?(?:{UNITS})(?![\w/])")


class Wrong(Exception):
    """A marker that cannot be filled; the message says which and why."""


def value(spec: str, results: Path = RESULTS) -> str:
    """The text for a marker, such as `convert_v1_5 convert_gb_per_s .2f`.

    Raises:
        Wrong: the marker is malformed, or its receipt has no such key or no number there.
    """
    parts = SPEC.fullmatch(spec.strip())
    if not parts:
        raise Wrong(f"{spec!r}: must read RECEIPT KEY.KEY FORMAT, such as `convert_v1_5 convert_gb_per_s .2f`")
    path = results / f"{parts['receipt']}.json"
    if not path.is_file():
        return ABSENT
    found = json.loads(path.read_text(encoding="utf-8"))
    for key in parts["keys"].split("."):
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise Wrong(f"{spec!r}: {path.name} has no {parts['keys']!r}") from None
    if parts["form"] == "s" and isinstance(found, str):
        return found
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Wrong(f"{spec!r}: {path.name} holds {found!r} there, not a number")
    if parts["divisor"]:
        found = found / float(parts["divisor"])
    try:
        return format(found, parts["form"])
    except ValueError:
        raise Wrong(f"{spec!r}: {found!r} cannot be written as {parts['form']!r}") from None


def fill(text: str, results: Path = RESULTS) -> str:
    """The document with every marked number from its receipt. Raises Wrong."""

    def filled(match: re.Match) -> str:
        return match[0] if match["code"] else f"<!--={match['spec']}-->{value(match['spec'], results)}<!--/-->"

    return MARKED.sub(filled, text)


def problems(text: str, results: Path = RESULTS) -> list[str]:
    """Errors of a document with their lines: numbers that differ from their receipt, and numbers without one."""
    found = []
    for match in MARKED.finditer(text):
        if match["code"]:
            continue
        line = text.count("\n", 0, match.start()) + 1
        try:
            if (right := value(match["spec"], results)) != match["text"]:
                found.append(f"{line}: {match['text']!r} stands where {match['spec']} has {right!r}")
        except Wrong as wrong:
            found.append(f"{line}: {wrong}")
    left = MARKED.sub(lambda match: "\n" * match[0].count("\n"), text)
    if "<!--=" in left or "<!--/-->" in left:
        line = left.count("\n", 0, max(left.find("<!--="), left.find("<!--/-->"))) + 1
        found.append(f"{line}: a marker without its other half")
    for number, line in enumerate(left.splitlines(), 1):
        if not STATED.search(line) and not STATED_ONCE.search(text):
            found += [f"{number}: {match[0]!r} has no receipt" for match in MEASURED.finditer(line)]
    return found


def documents(root: Path = ROOT) -> list[Path]:
    return sorted({path for pattern in DOCUMENTS for path in root.glob(pattern)})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 where something is wrong")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    results = args.root / "benchmarks" / "results"
    wrong = []
    for path in documents(args.root):
        text = path.read_text(encoding="utf-8")
        if not args.check:
            try:
                new = fill(text, results)
            except Wrong as error:
                wrong.append(f"{path.relative_to(args.root)}: {error}")
                continue
            if new != text:
                path.write_text(new, encoding="utf-8")
                print(f"filled {path.relative_to(args.root)}")
            text = new
        wrong += [f"{path.relative_to(args.root)}:{problem}" for problem in problems(text, results)]
    print("\n".join(wrong) or "every measured number is its receipt's", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
