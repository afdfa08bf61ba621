"""Run the practical tests of a nano model; write a receipt with every score, and a picture of a report's page.

    python benchmarks/practical.py nano outputs/practical_nano
    python benchmarks/practical.py nano_i2v outputs/practical_nano_i2v

The folder keeps clips and whole reports; a run that was stopped goes on. `cost`, `product` and `watermark` judge clips of
another test. The status is 0 whether thresholds are reached or not: bad results are results. With Playwright and
/usr/bin/chromium, a picture of one page goes to docs/practical_MODEL.png.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import receipt

from mindsora import cli

TESTS = {  # model -> test -> the test whose clips it judges again, or None
    "nano": {"long_prompts": None, "cost": "long_prompts", "watermark": "long_prompts"},
    "nano_i2v": {
        "image_control": None,
        "editing": None,
        "product": "image_control",
        "watermark": "image_control",
    },
}
PICTURED = {"nano": "long_prompts", "nano_i2v": "editing"}
CHROMIUM = Path("/usr/bin/chromium")


def evaluate(test: str, model: str, clips_of: str | None, folder: Path) -> dict:
    """The report of one test; a whole one that is there already stays."""
    path = folder / test / "report.json"
    if path.is_file() and (content := json.loads(path.read_text()))["complete"]:
        return content
    source = ["--videos", str(folder / clips_of / "clips")] if clips_of else ["--model", model]
    status = cli.main(["evaluate", test, *source, "--device", "CPU", "--output", str(folder / test)])
    if status > 1:
        sys.exit(status)
    return json.loads(path.read_text())


def of_receipt(content: dict, clips_of: str | None) -> dict:
    """What a receipt keeps of a report: all scores, and the means of every task where the items have tasks; rounded."""
    scores = {
        name.replace(" ", "_"): {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in score.items()
            if key in ("value", "low", "high", "clips", "threshold", "reached")
        }
        | {"judge": score["judge"]["name"], "kind": score["judge"]["kind"]}
        for name, score in content["scores"].items()
    }
    tasks = dict.fromkeys(clip["facts"].get("task") for clip in content["clips"])
    by_task = {task: means(content, task) for task in tasks if task is not None}
    about = {"items": content["items"], "seeds": len(content["seeds"]), "complete": content["complete"]}
    return about | ({"clips_of": clips_of} if clips_of else {}) | {"scores": scores, "by_task": by_task}


def means(content: dict, task: str) -> dict[str, float]:
    """Mean of every measure over the clips of one task."""
    rows = [clip["values"] for clip in content["clips"] if clip["facts"]["task"] == task]
    names = [name for name in content["judges"] if any(row.get(name) is not None for row in rows)]
    kept = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return {name.replace(" ", "_"): round(statistics.mean(values), 4) for name, values in kept.items()}


def picture(page: Path, target: Path) -> None:
    """A picture of a report's page, from its scores on."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=flags)
        shown = browser.new_page(viewport={"width": 1100, "height": 1400})
        shown.goto(page.resolve().as_uri())
        shown.wait_for_timeout(3000)  # first frames of the clips
        top = shown.get_by_role("heading", name="Scores").bounding_box()["y"] - 10
        shown.screenshot(path=str(target), full_page=True, clip={"x": 0, "y": top, "width": 1100, "height": 1050})
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=tuple(TESTS))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    reports = {test: evaluate(test, args.model, of, args.folder) for test, of in TESTS[args.model].items()}
    tests = {test: of_receipt(content, TESTS[args.model][test]) for test, content in reports.items()}
    receipt.write(f"practical_{args.model}", ("mindspore", "numpy", "opencv-python-headless"), {"tests": tests})
    if CHROMIUM.is_file():
        page = args.folder / PICTURED[args.model] / "report.html"
        picture(page, receipt.ROOT / "docs" / f"practical_{args.model}.png")


if __name__ == "__main__":
    main()
