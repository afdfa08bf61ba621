"""The page: controls on top, the queue and the gallery under them. Gradio draws it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape

import gradio as gr

from mindsora.errors import InputError
from mindsora.jobs.planning import parse_seeds
from mindsora.jobs.reconstruct import DEFAULT
from mindsora.serving.asked import LARGEST_UPLOAD, Asked
from mindsora.serving.lanes import Lanes
from mindsora.serving.store import QueueFull, Store
from mindsora.studio import views
from mindsora.studio.requests import Draft, Models, again, check, planned, reconstruction, with_frames
from mindsora.zoo import ModelIndex, autoencoders_in_the_box

PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff"]
VIDEOS = [".mp4", ".mov", ".webm", ".mkv", ".gif"]
TICK = 1.0  # seconds between two looks at the queue
LONGEST_VIDEO = 60  # seconds that the slider of a long video goes to


class Size:
    """Controls of one clip's size and quality: only legal values can be chosen."""

    def __init__(self, index: ModelIndex):
        stride, (rows, columns) = index.vae_stride[0], (index.vae_stride[axis] * index.patch_size for axis in (1, 2))
        with gr.Row():
            self.frames = gr.Dropdown(_legal(1, stride, index.max_frames), value=index.num_frames, label="Frames")
            self.height = gr.Dropdown(_legal(rows, rows, index.max_height), value=index.height, label="Height")
            self.width = gr.Dropdown(_legal(columns, columns, index.max_width), value=index.width, label="Width")
        with gr.Row():
            self.steps = gr.Slider(1, 100, value=index.num_inference_steps, step=1, label="Steps")
            self.guidance = gr.Slider(1, 15, value=index.guidance_scale, step=0.5, label="Guidance")
        self.controls = [self.frames, self.height, self.width, self.steps, self.guidance]


def _legal(first: int, stride: int, largest: int) -> list[int]:
    return list(range(first, largest + 1, stride))


def options_of(frames, height, width, steps, guidance, negative: str = "") -> dict:
    """Values of Size's controls as keywords of `Request.of`."""
    options = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": int(steps)}
    return options | {"guidance_scale": float(guidance)} | ({"negative_prompt": negative} if negative else {})


class Page:
    """The page of one studio."""

    def __init__(self, store: Store, lanes: Lanes, models: Models):
        self.store, self.lanes, self.models = store, lanes, models

    def blocks(self) -> gr.Blocks:
        with gr.Blocks(title="MindSora studio", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
            gr.Markdown("# MindSora studio")
            with gr.Tabs():
                with gr.Tab("Text to video"):
                    text = self._text_to_video()
                with gr.Tab("Image to video"):
                    image = self._image_to_video()
                with gr.Tab("Long video"):
                    long = self._long_video()
                with gr.Tab("Reconstruct"):
                    reconstruct = self._reconstruct()
                with gr.Tab("Make again"):
                    repeat = self._again()
            said = gr.HTML('<p role="status"></p>', elem_id="said")
            for button, draft, inputs in (text, image, long, reconstruct, repeat):
                button.click(partial(self._begin, draft), inputs, said)
            gr.Markdown("## Queue")
            self._queue(page)
            gr.Markdown("## Gallery")
            self._gallery(page)
        return page

    # What a button does.

    def _begin(self, draft: Callable[..., Draft], *values) -> str:
        """Put a job into the queue; what is wrong is a sentence."""
        try:
            made = draft(*values)
            job = self.store.add(made.asked, made.uploads, check)
        except (InputError, QueueFull) as error:
            return _said(f"Not started: {error}")
        return _said(f"Accepted: {views.title(job)}, place {self.store.place(job)}")

    def _plan(self, model: str, *values) -> str:
        try:
            return (
                f"**Plan:** {planned(Asked(model, ('a video',), options=options_of(*values)), self.models, self.store)}"
            )
        except InputError as error:
            return f"**Not legal:** {error}"

    def _planned(self, model: str, size: Size) -> None:
        """The plan under the controls, kept up to date."""
        shown = gr.Markdown(self._plan(model, *(control.value for control in size.controls)))
        for control in size.controls:
            control.change(partial(self._plan, model), size.controls, shown, show_progress="hidden")

    # Tabs; each returns its button, the function that makes a draft, and the inputs of that.

    def _text_to_video(self):
        prompt = gr.Textbox(label="Prompt", lines=2, elem_id="prompt")
        negative = gr.Textbox(label="Negative prompt")
        size = Size(self.models.index(self.models.text))
        seeds = gr.Textbox("0", label="Seeds, such as 0-3: a clip for each", elem_id="seeds")
        self._planned(self.models.text, size)

        def draft(prompt, negative, seeds, *values) -> Draft:
            return Draft(
                Asked(self.models.text, (prompt,), tuple(parse_seeds(seeds)), options_of(*values, negative)), {}
            )

        return gr.Button("Make the video", variant="primary"), draft, [prompt, negative, seeds, *size.controls]

    def _image_to_video(self):
        index = self.models.index(self.models.image)
        prompt = gr.Textbox(label="Prompt", lines=2)
        with gr.Row():
            first, last, between = (
                gr.File(label=f"{name} frame", file_types=PICTURES) for name in ("First", "Last", "Another")
            )
        at = gr.Slider(1, index.max_frames - 2, value=index.num_frames // 2, step=1, label="Number of the other frame")
        size = Size(index)
        line = gr.HTML(views.timeline([], index.num_frames))
        seeds = gr.Textbox("0", label="Seeds, such as 0-3: a clip for each")
        self._planned(self.models.image, size)

        def draw(first, last, between, at, frames) -> str:
            return views.timeline([(first, 0), (last, frames - 1), (between, int(at))], frames)

        for control in (first, last, between, at, size.frames):
            control.change(draw, [first, last, between, at, size.frames], line, show_progress="hidden")

        def within(frames, at) -> gr.Slider:
            last = max(frames - 2, 1)
            return gr.Slider(maximum=last, value=min(at, last))

        size.frames.change(within, [size.frames, at], at, show_progress="hidden")

        def draft(prompt, seeds, first, last, between, at, *values) -> Draft:
            asked = Asked(self.models.image, (prompt,), tuple(parse_seeds(seeds)), options_of(*values))
            return with_frames(asked, [(first, "0"), (last, "-1"), (between, str(int(at)))])

        inputs = [prompt, seeds, first, last, between, at, *size.controls]
        return gr.Button("Make the video", variant="primary"), draft, inputs

    def _long_video(self):
        index = self.models.index(self.models.image)
        shots = gr.Textbox(label="Prompts, one a line: the shots share the length evenly", lines=4)
        longest = min(LONGEST_VIDEO, index.max_frames * 60 / index.fps)
        duration = gr.Slider(1, longest, value=2 * index.num_frames // index.fps, step=1, label="Seconds")
        first = gr.File(label="First frame", file_types=PICTURES)
        size = Size(index)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        self._planned(self.models.image, size)

        def draft(shots, duration, first, seed, *values) -> Draft:
            prompts = tuple(line.strip() for line in shots.splitlines() if line.strip())
            options = options_of(*values)
            asked = Asked(self.models.image, prompts, (int(seed),), options, duration=float(duration))
            if not prompts:
                raise InputError("give a prompt, or one a line for each shot")
            return with_frames(asked, [(first, "0")])

        inputs = [shots, duration, first, seed, *size.controls]
        return gr.Button("Make the video", variant="primary"), draft, inputs

    def _reconstruct(self):
        video = gr.File(label="Video", file_types=VIDEOS)
        names = list(dict.fromkeys([DEFAULT, *autoencoders_in_the_box(), self.models.text, self.models.image]))
        model = gr.Dropdown(names, value=DEFAULT, label="Autoencoder")
        return gr.Button("Reconstruct", variant="primary"), reconstruction, [video, model]

    def _again(self):
        file = gr.File(label="Manifest of a clip (FILE.json)", file_types=[".json"], elem_id="manifest")

        def draft(file) -> Draft:
            if not file:
                raise InputError("give a manifest first")
            return again(file, self.store, self.models)

        return gr.Button("Make it again", variant="primary"), draft, [file]

    # Queue and gallery.

    def _queue(self, page: gr.Blocks) -> None:
        shown = gr.HTML(views.queue(self.store), elem_id="queue")
        with gr.Row():
            chosen = gr.Dropdown([], label="Job to cancel", elem_id="cancel")
            cancel = gr.Button("Cancel it")
        answer = gr.HTML('<p role="status"></p>')

        def stop(id: str | None) -> str:
            if not id:
                return _said("Choose a job first.")
            return _said("Cancelled." if self.lanes.cancel(id) else "It has ended already.")

        def look(seen):
            waiting = [(views.title(job)[:80], job.id) for job in self.store.list(100) if not job.ended]
            now = [views.queue(self.store), waiting]
            choices = gr.skip() if seen and seen[1] == waiting else _choice(waiting[::-1])
            return gr.skip() if seen and seen[0] == now[0] else now[0], choices, now

        cancel.click(stop, chosen, answer)
        self._ticking(page, look, [shown, chosen])

    def _gallery(self, page: gr.Blocks) -> None:
        shown = gr.HTML(views.gallery(self.store), elem_id="gallery")
        with gr.Row():
            chosen = gr.Dropdown([], label="Job to delete")
            delete = gr.Button("Delete it and its files")
        answer = gr.HTML('<p role="status"></p>')

        def remove(id: str | None) -> str:
            if not id:
                return _said("Choose a job first.")
            return _said("Deleted." if self.store.delete(id) else "It is gone already, or not ended.")

        def look(seen):
            ended = [(views.title(job)[:80], job.id) for job in self.store.list(100) if job.ended]
            if seen == ended:  # leave the clips alone: one may be playing
                return gr.skip(), gr.skip(), gr.skip()
            return views.gallery(self.store), _choice(ended), ended

        delete.click(remove, chosen, answer)
        self._ticking(page, look, [shown, chosen])

    def _ticking(self, page: gr.Blocks, look: Callable, outputs: list) -> None:
        """Call `look` when the page is opened and every TICK; it gets what it has shown last."""
        seen = gr.State(None)
        page.load(look, seen, [*outputs, seen], show_progress="hidden")
        gr.Timer(TICK).tick(look, seen, [*outputs, seen], show_progress="hidden")


def _choice(jobs: list[tuple[str, str]]) -> gr.Dropdown:
    """A dropdown of jobs (title, id), the first chosen."""
    return gr.Dropdown(choices=jobs, value=jobs[0][1] if jobs else None)


def _said(sentence: str) -> str:
    return f'<p role="status">{escape(sentence)}</p>'


# No font of another host. Gradio's own blue and greys have less contrast than WCAG's 4.5.
THEME = gr.themes.Base(font=["sans-serif"], font_mono=["monospace"]).set(
    button_primary_background_fill="#1d4ed8",
    button_primary_background_fill_dark="#1d4ed8",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#ffffff",
    body_text_color_subdued="#4b5563",
    body_text_color_subdued_dark="#d1d5db",
)
MOUNT = {
    "max_file_size": LARGEST_UPLOAD,
    "footer_links": [],
    "css": views.STYLE,
    "theme": THEME,
    "show_error": False,
    "ssr_mode": False,
}
