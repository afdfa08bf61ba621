"""A process that holds a model and makes one job after another. It ends when its parent does.

Lines of JSON. From the parent: {"job": ID, "folder": DIR, "asked": {...}} and {"cancel": ID}. To the parent:
    {"ready": seconds}                          once
    {"step": n, "steps": all, "resident": bytes}   after each denoising step
    {"done": {"clips": [...], ...}}, {"cancelled": ID} or {"failed": sentence}   once for each job
After a failure that is not the request's, the process ends by itself: its memory may be exhausted or its state wrong.
"""

import json
import os
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from queue import SimpleQueue

from mindsora.config import from_dict
from mindsora.errors import InputError
from mindsora.files import whole_file
from mindsora.machine import resident_memory
from mindsora.runtime import Runtime, return_freed_memory
from mindsora.serving.asked import CLIP, Asked

PREVIEW = "preview.png"
PREVIEW_SHARE = 0.1  # of a job's time at most goes into previews


class Cancelled(Exception):
    """The client has cancelled the job."""


class Worker:
    """The loop of the process.

    Args:
        settings: `model`, `reconstruct`, `runtime` (fields of Runtime), `dtype`, `offload`, `command`.
        send: writes a message to the parent.
    """

    def __init__(self, settings: dict, send):
        self.settings, self.send = settings, send
        self.policy = from_dict(Runtime, settings["runtime"])
        self.cancelled: str | None = None
        self.steps = self.steps_done = 0
        self.jobs: SimpleQueue[dict] = SimpleQueue()

    def listen(self) -> None:
        """Read what the parent says; its end is this process's end, whatever is being made."""
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                self.cancelled = message["cancel"]
            else:
                self.jobs.put(message)
        os._exit(0)

    def run(self) -> None:
        start = time.monotonic()
        self.policy.apply()
        if not self.settings["reconstruct"]:
            self._load()
        self.send({"ready": round(time.monotonic() - start, 3)})
        while True:
            message = self.jobs.get()
            self.send(self._outcome(message))

    def _load(self) -> None:
        """Load the model, before a job asks for it."""
        from mindsora.jobs.running import about, load
        from mindsora.manifest import Recorder

        plan = Asked(self.settings["model"], ("a video",)).plan(Path("."))
        dtype, command = self.settings["dtype"], self.settings["command"]
        self.pipe, loading = load(plan, self.policy, dtype, self.settings["offload"])
        self.pipe.set_progress_bar_config(disable=True)
        self.recorder = Recorder(plan.model, dtype, plan.folder, self.pipe, self.policy, about(plan, command), loading)

    def _outcome(self, message: dict) -> dict:
        """The last message about a job."""
        os.chdir(message["folder"])  # so that a manifest names given files as the client does
        asked = Asked.from_json(message["asked"])
        self.job, self.steps_done, self.previewed = message["job"], 0, (time.monotonic(), 0.0)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                result = self._reconstruct(asked) if asked.reconstruct else self._generate(asked)
            told = dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning)
            return {"done": result | {"warnings": list(told)}, "resident": resident_memory()["now"]}
        except Cancelled:
            return {"cancelled": self.job}
        except InputError as error:
            return {"failed": str(error)}
        finally:
            Path(PREVIEW).unlink(missing_ok=True)
            return_freed_memory()

    def _generate(self, asked: Asked) -> dict:
        from mindsora.jobs.running import about, write
        from mindsora.pipelines.long_video import LongVideo

        plan = asked.plan(Path("."))
        windows = sum(job.clip.windows if isinstance(job.clip, LongVideo) else 1 for job in plan.jobs)
        self.steps = windows * plan.jobs[0].request.num_inference_steps
        recorder = self.recorder.for_run(about(plan, self.settings["command"]))
        written = list(write(plan, self.pipe, recorder, self._step))
        return {
            "clips": [one.path.name for one in written if one.job is not None],
            "sheet": next((one.path.name for one in written if one.job is None), None),
        }

    def _step(self, pipe, index: int, timestep, kwargs: dict) -> None:
        """Callback of a denoising step."""
        self.steps_done += 1
        self.send({"step": self.steps_done, "steps": self.steps, "resident": resident_memory()["now"]})
        if self.cancelled == self.job:
            raise Cancelled
        self._preview(pipe, kwargs["latents"])

    def _preview(self, pipe, latents) -> None:
        """Write the first frame of the step, unless previews would slow the job down."""
        from PIL import Image

        from mindsora.media import to_uint8

        since, spent = self.previewed
        start = time.monotonic()
        if spent > PREVIEW_SHARE * (start - since):
            return
        with whole_file(PREVIEW) as temporary:
            Image.fromarray(to_uint8(pipe.first_frame(latents))).save(temporary, format="PNG")
        self.previewed = since, spent + time.monotonic() - start

    def _reconstruct(self, asked: Asked) -> dict:
        from mindsora.jobs.reconstruct import MAX_FRAMES, reconstruct_video
        from mindsora.media import export_to_video, read_video

        frames, fps = read_video(asked.video, MAX_FRAMES)
        clip = reconstruct_video(frames, asked.model, **asked.options)
        export_to_video(clip.side_by_side, f"{CLIP}.mp4", fps)
        return {"clips": [f"{CLIP}.mp4"], "sheet": None, "measures": {"psnr": clip.psnr, "ssim": clip.ssim}}


def main(settings: dict) -> None:
    """Run a worker on this process's standard input and output."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not stand among the messages

    def send(message: dict) -> None:
        print(json.dumps(message), file=out, flush=True)

    worker = Worker(settings, send)
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        worker.run()
    except BrokenPipeError:
        os._exit(1)
    except BaseException as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
        text = " ".join(str(error).split())[:500]
        send({"failed": f"out of memory: {text}" if memory else f"{type(error).__name__}: {text}", "ends": True})
        os._exit(1)  # threads of MindSpore may hold up an ordinary end


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
