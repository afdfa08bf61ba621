"""What the HTTP interface takes and gives: OpenAI's video jobs, with this project's options beside them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mindsora.errors import InputError, shown
from mindsora.serving.asked import LONGEST_PROMPT, Asked
from mindsora.serving.store import Job, Store
from mindsora.zoo import ModelIndex

PICTURE = "input_reference.png"
_OPTIONS = (
    "negative_prompt",
    "num_frames",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "solver",
    "tile",
)  # fmt: skip  that go to `Request.of` as they are


class VideoBody(BaseModel):
    """The fields of POST /v1/videos, in JSON or as a form. The model's index has the defaults."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT, description="what the video shows")
    model: str | None = Field(None, description="the model that is served")
    seconds: float | None = Field(None, gt=0, description="length; the nearest legal number of frames is taken")
    size: str | None = Field(None, pattern=r"^\d{1,5}x\d{1,5}$", description="WIDTHxHEIGHT in pixels")
    seed: int = Field(0, ge=0, lt=2**32)
    negative_prompt: str | None = Field(None, max_length=LONGEST_PROMPT, description="what to steer away from")
    num_frames: int | None = Field(None, description="instead of seconds")
    height: int | None = Field(None, description="with width, instead of size")
    width: int | None = None
    num_inference_steps: int | None = Field(None, description="denoising steps")
    guidance_scale: float | None = Field(None, description="above 1 follows the prompt more")
    guidance_rescale: float | None = Field(None, description="0 to 1")
    solver: str | None = Field(None, description="instead of the model's own: dpmpp_2m")
    tile: int | None = Field(None, description="side in pixels of the autoencoder's tiles")

    def asked(self, served: str, index: ModelIndex, picture: bool) -> Asked:
        """The job's request; picture: the first frame is given as PICTURE.

        Raises:
            InputError: a size given twice, or more seconds than the model makes.
        """
        options = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if self.size is not None:
            if self.height is not None or self.width is not None:
                raise InputError("size is given beside height or width: give one of them")
            options["width"], options["height"] = map(int, self.size.split("x"))
        if self.seconds is not None:
            if self.num_frames is not None:
                raise InputError("seconds and num_frames are both given: give one of them")
            options["num_frames"] = frames_of(self.seconds, index)
        images = ((PICTURE, None),) if picture else ()
        return Asked(served, (self.prompt,), (self.seed,), options, images)


def frames_of(seconds: float, index: ModelIndex) -> int:
    """The legal number of frames that is nearest to so many seconds.

    Raises:
        InputError: more than half a second longer than the longest clip.
    """
    stride, longest = index.vae_stride[0], index.max_frames
    if seconds > longest / index.fps + 0.5:
        raise InputError(
            f"seconds = {seconds:g}: the model makes up to {longest} frames at {index.fps:g} a second; "
            f"nearest legal: {longest / index.fps:.3g}"
        )
    last = (longest - 1) // stride
    return 1 + stride * min(max(round((seconds * index.fps - 1) / stride), 0), last)


def size_of(asked: Asked, index: ModelIndex) -> tuple[int, int, int]:
    """Frames, height and width."""
    frames, height, width = (
        asked.options.get(name, getattr(index, name)) for name in ("num_frames", "height", "width")
    )
    return frames, height, width


def video(job: Job, store: Store, index: ModelIndex) -> dict:
    """A job as OpenAI's `video` object, with fields of ours behind it."""
    frames, height, width = size_of(job.asked, index)
    code = "job_failed" if job.status == "failed" else None
    return {
        "id": job.id,
        "object": "video",
        "model": Path(job.asked.model).name,
        "status": job.status,
        "progress": 100 if job.status == "completed" else int(99 * job.steps_done / job.steps) if job.steps else 0,
        "created_at": int(job.created),
        "completed_at": None if job.finished is None else int(job.finished),
        "expires_at": None,
        "prompt": job.asked.prompts[0],
        "seconds": f"{frames / index.fps:g}",
        "size": f"{width}x{height}",
        "remixed_from_video_id": None,
        "error": {"code": code, "message": job.error} if code else None,
        "num_frames": frames,
        "seed": job.asked.seeds[0],
        "queue_place": store.place(job) if job.status == "queued" else None,
        "warnings": job.result.get("warnings", []),
    }


def refused(message: str, code: str | None = None, param: str | None = None) -> dict:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def sentence(errors: list[dict]) -> tuple[str, str | None]:
    """The first of pydantic's errors in words, and the field that it is about."""
    first = errors[0]
    param = ".".join(map(str, first["loc"])) or None
    if first["type"] == "extra_forbidden":
        return f"no field {shown(param)}; fields: {', '.join(VideoBody.model_fields)}", param
    value = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
    return f"{param}{value}: {first['msg'][0].lower()}{first['msg'][1:]}", param
