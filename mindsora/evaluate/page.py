"""The page of a report: one HTML file with its clips and plots inside, which loads nothing else."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mindsora.errors import shown
from mindsora.evaluate.measures import Clip
from mindsora.files import whole_file
from mindsora.media import export_to_video

SIDE, FRAMES = 192, 64  # at most, of a clip on the page: a page of 600 clips stays below 100 MB

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #1c1f23 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: 4px 10px; border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b3261e } .note { color: #666 }
.proxy { background: #fff1c2; padding: 0 5px; border-radius: 3px } .missing { background: #f8d7da; padding: 0 5px }
.model { background: #d9ead3; padding: 0 5px; border-radius: 3px }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 14px }
figure { margin: 0 } .plot { display: inline-block; margin: 8px } video { width: 100%; background: #eee }
figcaption { font-size: 12px; overflow-wrap: anywhere }
"""


def write_preview(clip: Clip, folder: Path) -> None:
    """Write a small mp4 of a clip, which every browser plays, whatever the codec of its own files."""
    numbers = np.unique(np.rint(np.linspace(0, len(clip.frames) - 1, min(FRAMES, len(clip.frames)))).astype(int))
    height, width = clip.frames.shape[1:3]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    frames = np.stack([cv2.resize(clip.frames[n], size, interpolation=cv2.INTER_AREA) for n in numbers])
    rate = float(np.clip(clip.fps * len(numbers) / len(clip.frames), 1, 60))
    export_to_video(frames, folder / f"{clip.item.name}.mp4", rate)


def write_page(path: Path, reports: Sequence[dict], previews: Sequence[Path], compared: dict | None = None) -> None:
    """Write the page of one report, or of two side by side.

    Args:
        previews: the folder of each report's previews.
        compared: what `report.compare` says of the two.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        title = f"{reports[0]['evaluation']}: {' and '.join(_whose(content) for content in reports)}"
        out.write(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>')
        out.write(f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>")
        if compared:
            out.write(_compared(compared))
        for content, folder in zip(reports, previews, strict=True):
            _write_report(out, content, folder)
        out.write("</html>\n")


def _whose(content: dict) -> str:
    return str(content.get("model") or content.get("videos"))


def _write_report(out, content: dict, folder: Path) -> None:
    out.write(f"<h2>{html.escape(_whose(content))}</h2><p>{html.escape(content['about'])}</p>{_verdict(content)}")
    out.write(_facts(content))
    out.write("<h3>Scores</h3><table><tr><th>score<th>value<th>95 % interval<th><th>clips<th>wanted<th>judge</tr>")
    out.writelines(_score(name, score) for name, score in content["scores"].items())
    out.writelines(_missing(name, content["judges"][name]) for name in content["missing"])
    out.write("</table><h3>Distributions</h3>")
    out.writelines(_histogram(name, content["clips"]) for name in content["judges"])
    out.write('<h3>Clips</h3><div class="clips">')
    for clip in content["clips"]:  # one after another: all videos in memory at once would not be flat
        out.write(_clip(clip, folder))
    out.write("</div>")


def _verdict(content: dict) -> str:
    if content["complete"]:
        return "<p><b>complete</b>: every judge was there and every clip was judged.</p>"
    reasons = [f"no judge for {name}" for name in content["missing"]]
    reasons += [f"{shown(name)}: {error}" for name, error in content["unreadable"].items()]
    items = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
    return f'<p class="bad"><b>complete: false</b></p><ul>{items}</ul>'


def _facts(content: dict) -> str:
    names = ("date", "command", "version", "settings", "options", "lora", "judge_files", "items", "seeds")
    facts = [f"{name}: {html.escape(str(content[name]))}" for name in names if content.get(name)]
    facts += [html.escape(note) for note in content["notes"]]
    return f'<p class="note">{"<br>".join(facts)}</p>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _score(name: str, score: dict) -> str:
    bounds = "" if score["low"] is None else f"{_number(score['low'])} to {_number(score['high'])}"
    wanted = ""
    if "threshold" in score:
        sign = "&ge;" if score["higher_is_better"] else "&le;"
        state = "" if score["reached"] else ' class="bad"'
        wanted = f"<span{state}>{sign} {_number(score['threshold'])}</span>"
    unit = html.escape(score["unit"])
    return (
        f'<tr><td>{html.escape(name)}<td class="n">{_number(score["value"])} {unit}<td class="n">{bounds}'
        f'<td>{_whisker(score)}<td class="n">{score["clips"]}<td>{wanted}<td>{_judge(score["judge"])}</tr>\n'
    )


def _missing(name: str, judge: dict) -> str:
    return f'<tr><td>{html.escape(name)}<td class="n">-<td><td><td class="n">0<td><td>{_judge(judge)}</tr>\n'


def _judge(judge: dict) -> str:
    version = "" if judge["kind"] == "missing" else f" {judge['version']}"
    checksum = f" (sha256 {judge['sha256'][:12]})" if judge["sha256"] else ""
    return f'<span class="{judge["kind"]}">{judge["kind"]}</span> {html.escape(judge["name"] + version + checksum)}'


def _whisker(score: dict) -> str:
    """The value and its interval on a line from 0 to 1; nothing for values on another scale."""
    low, value, high = score["low"], score["value"], score["high"]
    if low is None or not 0 <= low <= high <= 1:
        return ""
    x = [round(4 + 112 * number, 1) for number in (low, value, high)]
    return (
        '<svg width="120" height="14" role="img"><path d="M4 7H116" stroke="#ddd"/>'
        f'<path d="M{x[0]} 7H{x[2]}" stroke="#3569a8" stroke-width="3"/>'
        f'<circle cx="{x[1]}" cy="7" r="4" fill="#12345a"/></svg>'
    )


def _histogram(name: str, clips: Sequence[dict]) -> str:
    values = [clip["values"][name] for clip in clips if clip["values"].get(name) is not None]
    if len(values) < 2:
        return ""
    counts, edges = np.histogram(values, bins=min(20, len(values)))
    wide, tall = 300 / len(counts), 60 / counts.max()
    bars = "".join(
        f'<rect x="{i * wide:.1f}" y="{64 - count * tall:.1f}" width="{wide - 1:.1f}" height="{count * tall:.1f}"/>'
        for i, count in enumerate(counts)
    )
    return (
        f'<figure class="plot"><svg width="300" height="64" fill="#3569a8" role="img">{bars}</svg>'
        f"<figcaption>{html.escape(name)}: {_number(edges[0])} to {_number(edges[-1])}, {len(values)} clips</figcaption>"
        "</figure>\n"
    )


def _clip(clip: dict, folder: Path) -> str:
    path = folder / f"{clip['name']}.mp4"
    video = ""
    if clip["error"] is None and path.is_file():
        data = base64.b64encode(path.read_bytes()).decode()
        video = f'<video controls loop muted playsinline preload="metadata" src="data:video/mp4;base64,{data}"></video>'
    values = [f"{name} {_number(value)}" for name, value in clip["values"].items()]
    text = "<br>".join(html.escape(line) for line in [clip["name"], " | ".join(clip["prompts"]), ", ".join(values)])
    error = f'<br><span class="bad">{html.escape(clip["error"])}</span>' if clip["error"] else ""
    return f"<figure>{video}<figcaption>{text}{error}</figcaption></figure>\n"


def _compared(compared: dict) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(name)}<td class="n">{_number(entry["first"])}<td class="n">{_number(entry["second"])}'
        f'<td class="n">{_number(entry["difference"])}<td class="n">{_number(entry["low"])} to {_number(entry["high"])}'
        f'<td class="n">{entry["clips"]}<td>{"" if entry["same_judge"] else "two judges: not comparable"}</tr>\n'
        for name, entry in compared["measures"].items()
    )
    head = "<tr><th>measure<th>first<th>second<th>difference<th>95 % interval, paired<th>clips<th></tr>"
    return f"<h2>Side by side, on {compared['items']} items of both</h2><table>{head}{rows}</table>"
