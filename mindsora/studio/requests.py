"""From controls and manifests to a job's request. Files that are given come as bytes, and get names of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mindsora import manifest
from mindsora.audit import plan as audit
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.media import probe_video
from mindsora.serving.asked import LARGEST_UPLOAD, Asked
from mindsora.serving.store import Job, Store
from mindsora.zoo import ModelIndex, find

LARGEST_MANIFEST = 2**20  # bytes
VIDEO = "given.mp4"


@dataclass(frozen=True)
class Models:
    """What the studio offers.

    Attributes:
        text: model of text to video.
        image: model that takes frames, of image to video and long video.
        dtype: of both, as the worker has it.
    """

    text: str
    image: str
    dtype: str | dict[str, str] | None = None

    def index(self, name: str) -> ModelIndex:
        return ModelIndex.read(find(name))


@dataclass(frozen=True)
class Draft:
    """A request and the files that it gives."""

    asked: Asked
    uploads: dict[str, bytes]


def content_of(path: str | os.PathLike, largest: int = LARGEST_UPLOAD) -> bytes:
    """An uploaded file. InputError: it is too large."""
    size = os.path.getsize(path)
    if size > largest:
        raise InputError(f"the file has {size} bytes: at most {largest}")
    return Path(path).read_bytes()


def with_frames(asked: Asked, pictures: Sequence[tuple[str | None, str]]) -> Draft:
    """Pictures (uploaded file or None, time) as the given frames of a request."""
    given = [(path, time) for path, time in pictures if path]
    names = [f"frame-{number}.png" for number in range(len(given))]
    uploads = {name: content_of(path) for name, (path, _) in zip(names, given, strict=True)}
    images = tuple((name, time) for name, (_, time) in zip(names, given, strict=True))
    return Draft(replace(asked, images=images), uploads)


def reconstruction(path: str | None, model: str) -> Draft:
    """A video through an autoencoder. InputError: no file, or not a video."""
    if not path:
        raise InputError("give a video first")
    return Draft(Asked(model, video=VIDEO, reconstruct=True), {VIDEO: content_of(path)})


def check(asked: Asked, folder: Path) -> None:
    """InputError for a job that cannot be made; it names files without the folder."""
    try:
        probe_video(folder / asked.video) if asked.reconstruct else asked.plan(folder)
    except InputError as error:
        raise InputError(str(error).replace(f"{folder}/", "")) from error


def again(path: str | os.PathLike, store: Store, models: Models) -> Draft:
    """The request of a manifest; frames that it was given come from the gallery, by their checksums.

    Raises:
        InputError: no manifest, another model or dtype than the studio's, LoRA files, or a given file that is not here.
    """
    if os.path.getsize(path) > LARGEST_MANIFEST:
        raise InputError(f"a manifest has at most {LARGEST_MANIFEST} bytes")
    try:
        content = manifest.read(path)
    except InputError as error:  # its message has the name that the file has here
        raise InputError(str(error).replace(str(path), Path(path).name)) from error
    request = content["request"]
    if request["model"] not in (models.text, models.image):
        raise InputError(
            f"the manifest is of model {shown(request['model'])}; this studio has {models.text} and {models.image}"
        )
    if request["dtype"] != models.dtype:
        raise InputError(f"the manifest is of dtype {shown(request['dtype'])}; start the studio with --dtype")
    if request.get("lora"):
        raise InputError(
            "the manifest is of a model with LoRA files, which the studio does not load; use mindsora rerun"
        )
    given, long = request.get("given") or {}, request.get("long_video") or {}
    names = ("negative_prompt", "num_frames", "height", "width", "num_inference_steps", "guidance_scale")
    names += ("guidance_rescale", "tile", "solver")
    try:
        uploads = {name: _given(checksum, store) for name, checksum in given.get("sha256", {}).items()}
        asked = Asked.from_json(
            {
                "model": request["model"],
                "prompts": long.get("prompts", [request["prompt"]]),
                "seeds": [request["seed"]],
                "options": {name: request[name] for name in names if name in request},
                "images": given.get("images", []),
                "video": given.get("video"),
                "keep": given.get("keep"),
                "fit": given.get("fit", "cover"),
                "noise_strength": float(long.get("noise_strength", given.get("noise_strength", 0.0))),
                "duration": long.get("duration"),
                "overlap": long.get("overlap"),
                "expected_sha256": content["result"].get("frames_sha256"),
            }
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"the manifest is not as `mindsora` writes it: {shown(error, quote=False)}") from error
    if any(Path(name).name != name for name in uploads) or uploads.keys() != {*dict(asked.images), asked.video} - {
        None
    }:
        raise InputError("the manifest gives files of another folder; make it again with mindsora rerun")
    return Draft(asked, uploads)


def _given(checksum: str, store: Store) -> bytes:
    """A file of the gallery with this checksum."""
    for path in sorted((store.folder / "files").glob("*/*")):
        given = path.suffix in (".png", ".mp4") and path.stem.startswith(("frame-", "given"))
        if given and file_sha256(path) == checksum:
            return path.read_bytes()
    raise InputError(f"no file of the gallery is the given one, sha256 {shown(checksum)}; make it with mindsora rerun")


def same(job: Job, store: Store) -> bool | None:
    """Whether a job that repeats a manifest has its frames; None: it repeats none."""
    if job.asked.expected_sha256 is None or job.status != "completed":
        return None
    path = store.folder_of(job.id) / job.result["clips"][0]
    return manifest.read(manifest.beside(path))["result"]["frames_sha256"] == job.asked.expected_sha256


def planned(asked: Asked, models: Models, store: Store) -> str:
    """What a clip costs, in a sentence. InputError: it is not legal."""
    options = asked.options
    size = tuple(options.get(name) for name in ("num_frames", "height", "width"))
    steps, guidance = options.get("num_inference_steps"), options.get("guidance_scale")
    costs = audit.plan(asked.model, size, "cpu", models.dtype, steps, guidance, options.get("tile"))
    clip, memory = costs["clip"], costs["memory"]
    seconds = [job.finished - job.started for job in store.list(100) if _is_alike(job, asked)]
    took = f"; the last such clip took {seconds[0]:.1f} s" if seconds else "; no such clip has been made here yet"
    return (
        f"{clip['frames']} frames of {clip['width']} x {clip['height']} ({clip['seconds']:.2f} s), "
        f"{costs['tokens']['visual']} tokens, {clip['steps']} steps, "
        f"by the model of `mindsora plan` {memory['peak'] / 2**30:.1f} GiB and {costs['time']['total']:.0f} s "
        f"on a CPU with start and compilation{took}"
    )


def _is_alike(job: Job, asked: Asked) -> bool:
    """Whether a finished job made one clip of this size and quality."""
    same_options = all(job.asked.options.get(name) == value for name, value in asked.options.items())
    alone = len(job.asked.seeds) == 1 and job.asked.duration is None
    return job.status == "completed" and alone and job.asked.model == asked.model and same_options
