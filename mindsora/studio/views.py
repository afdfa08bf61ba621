"""Pieces of the page as HTML. Everything that a user wrote is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from mindsora.errors import InputError
from mindsora.media import read_picture
from mindsora.serving.store import Job, Store
from mindsora.studio.requests import same

THUMBNAIL = 96  # pixels of a picture on the timeline
SHOWN = 30  # jobs in the gallery

STYLE = """
.min_value, .max_value, input.subdued {color: var(--body-text-color) !important}
button[role=tab].selected {color: #1d4ed8 !important} .dark button[role=tab].selected {color: #93c5fd !important}
.clips {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(220px, 100%), 1fr)); gap: 12px}
.clips figure {margin: 0} .clips video, .clips img {width: 100%; background: #000; image-rendering: auto}
.clips figcaption {overflow-wrap: anywhere} .job {border-top: 1px solid; padding: 12px 0}
.job h3 {margin: 0 0 4px; font-size: 1em; overflow-wrap: anywhere} .making {display: flex; gap: 12px; align-items: center}
.making img {width: 128px; image-rendering: pixelated; background: #000} .making progress {width: 100%}
.timeline {position: relative; height: 118px; border-bottom: 4px solid; margin: 8px 0 24px}
.timeline figure {position: absolute; bottom: 0; margin: 0; transform: translateX(-50%)}
.timeline figcaption {text-align: center; font-size: .8em}
.timeline figure:first-child {transform: none} .timeline figure.end {transform: translateX(-100%)}
.timeline img {height: 80px; max-width: 96px; display: block}
"""


def title(job: Job) -> str:
    """What a job makes, in a line."""
    if job.asked.reconstruct:
        return f"Reconstruction by {job.asked.model}"
    shots, seeds = " | ".join(job.asked.prompts), job.asked.seeds
    return f"{shots} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"


def queue(store: Store) -> str:
    """What is being made, with its last step, and what waits."""
    jobs = [job for job in store.list(2 * SHOWN) if not job.ended]
    if not jobs:
        return '<p role="status">Nothing waits.</p>'
    return "".join(_making(job, store) if job.status == "in_progress" else _waiting(job, store) for job in jobs[::-1])


def _making(job: Job, store: Store) -> str:
    preview = store.folder_of(job.id) / "preview.png"
    name = escape(title(job))
    picture = f'<img src="/files/{job.id}/preview.png?{job.steps_done}" alt="present step">' if preview.exists() else ""
    steps = f"step {job.steps_done} of {job.steps}" if job.steps_done else "begins: a new size is compiled first"
    bar = f'<progress max="{max(job.steps, 1)}" value="{job.steps_done}" aria-label="steps of {name}"></progress>'
    return f'<div class="job making">{picture}<div style="flex:1"><h3>{name}</h3>{bar}<p>{steps}</p></div></div>'


def _waiting(job: Job, store: Store) -> str:
    return f'<div class="job"><h3>{escape(title(job))}</h3><p>place {store.place(job)} in the queue</p></div>'


def gallery(store: Store) -> str:
    """The last jobs that have ended, the newest first: every seed of a job, so that nobody has to trust a pick."""
    jobs = [job for job in store.list(2 * SHOWN) if job.ended][:SHOWN]
    return "".join(_ended(job, store) for job in jobs) or "<p>No clip yet.</p>"


def _ended(job: Job, store: Store) -> str:
    name = f'<div class="job" id="{job.id}"><h3>{escape(title(job))}</h3>'
    if job.status != "completed":
        return f"{name}<p>{job.status}{': ' + escape(job.error) if job.error else ''}</p></div>"
    clips = job.result["clips"]
    figures = "".join(_figure(job, clip) for clip in clips)
    words = [f"{len(clips)} of {len(job.asked.seeds)} seeds shown"] if len(clips) > 1 else []
    if (identical := same(job, store)) is not None:
        words.append("made again: identical frames" if identical else "made again: the frames are not identical")
    if measures := job.result.get("measures"):
        ssim = "" if measures["ssim"] is None else f", SSIM {measures['ssim']:.4f}"
        words.append(f"original left, reconstruction right: PSNR {measures['psnr']:.2f} dB{ssim}")
    words += job.result.get("warnings", [])
    if sheet := job.result.get("sheet"):
        figures += f'<figure><a href="/files/{job.id}/{sheet}" download>contact sheet</a></figure>'
    return f'{name}<div class="clips">{figures}</div>{"".join(f"<p>{escape(word)}</p>" for word in words)}</div>'


def _figure(job: Job, clip: str) -> str:
    path, label = f"/files/{job.id}/{clip}", escape(title(job))
    shown = (
        f'<img src="{path}" alt="{label}">'
        if clip.endswith(".png")
        else f'<video src="{path}" controls loop muted playsinline preload="metadata" aria-label="{label}"></video>'
    )
    manifest = "" if job.asked.reconstruct else f', <a href="{path}.json" download>manifest</a>'
    return f'<figure>{shown}<figcaption><a href="{path}" download>{escape(clip)}</a>{manifest}</figcaption></figure>'


def timeline(pictures: Sequence[tuple[str | None, int]], frames: int) -> str:
    """Given pictures (uploaded file or None, number of its frame) over the frames of a clip."""
    figures = []
    for path, number in sorted((one for one in pictures if one[0]), key=lambda one: one[1]):
        place = number / max(frames - 1, 1)
        end = ' class="end"' if place == 1 else ""
        figures.append(
            f'<figure{end} style="left:{100 * place:.1f}%">{_thumbnail(path)}'
            f"<figcaption>frame {number}</figcaption></figure>"
        )
    words = f"frames 0 to {frames - 1}; {len(figures)} given"
    return f'<div class="timeline" role="img" aria-label="{words}">{"".join(figures)}</div><p>{words}</p>'


def _thumbnail(path: str) -> str:
    """A picture inside the page; it was checked as a given frame is."""
    try:
        image = read_picture(path)
    except InputError as error:
        return escape(str(error).replace(str(path), "the file"))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return f'<img alt="given frame" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'
