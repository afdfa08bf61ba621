"""Regenerate a file from its manifest and compare."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import mindsora
from mindsora import manifest, runtime, zoo
from mindsora.audit.diff import differences, file_psnr
from mindsora.config import from_dict
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.jobs.planning import suffix_of
from mindsora.models import registry
from mindsora.pipelines.given_files import GivenFiles
from mindsora.pipelines.lora_file import LoRAFile
from mindsora.ranges import fits
from mindsora.runtime import Runtime

# The keys that `request.long_video` of a manifest must hold.
LONG_VIDEO = {"prompts": tuple[str, ...], "duration": float, "overlap": int, "noise_strength": float}


@dataclass(frozen=True)
class Rerun:
    """The outcome of a rerun.

    Attributes:
        frames_sha256: of the first file's frames, from its manifest.
        file: "as written", "missing" or "changed": the first file now, compared with its manifest's checksum.
        identical: whether the frames are the same now.
        stack: differences in what computed the two: lines `stack.name: then | now`.
        closeness: how close the two files are, in words; "" where the frames are identical.
    """

    frames_sha256: str | None
    file: str
    identical: bool
    stack: list[str]
    closeness: str


def rerun(
    path: str,
    output: str | None = None,
    model: str | None = None,
    device: str | None = None,
    quiet: bool = False,
    command: str | None = None,
) -> Rerun:
    """Generate what a manifest asks for, under its runtime settings, and compare the frames.

    Args:
        path: path of the manifest.
        output: where the new file and its manifest stay; None drops them.
        model, device: None means the manifest's.
        quiet: no progress bar.
        command: the command recorded in the new manifest.

    Raises:
        InputError: before anything is loaded, for a manifest, model, LoRA or output that cannot be used.
    """
    old = manifest.read(path)
    request, stack = old["request"], old["stack"]
    model = model or request["model"]
    folder = zoo.find(model)
    index = zoo.ModelIndex.read(folder)
    clip = clip_of(index, request)
    loras = [from_dict(LoRAFile, record) for record in request.get("lora", [])]
    for lora in loras:
        lora.read(folder / "transformer", registry.spec(index.transformer[1]))
    policy = from_dict(Runtime, stack["runtime"] | {"device": device or stack["device"].get("name")})
    original, suffix = Path(path).with_name(old["file"]), suffix_of(clip)
    state = _state(original, old["result"].get("file_sha256"))
    target = _checked(output, suffix, original, Path(path)) if output else None
    policy.apply()

    from mindsora.jobs.running import frames_of  # imports MindSpore, whose settings `apply` has just made

    start = time.perf_counter()
    pipeline, offload = getattr(mindsora, index.pipeline), bool(stack.get("offload"))
    pipe = pipeline.from_pretrained(model, dtype=request["dtype"], jit=policy.jit, offload=offload)
    for lora in loras:
        pipe.load_lora_weights(lora.file, lora.scale)
    pipe.set_progress_bar_config(disable=quiet or runtime.rank() > 0)
    about = {
        "command": command,
        "prompts": len(request["long_video"]["prompts"]) if "long_video" in request else 1,
        "seeds": [request["seed"]],
        "contact_sheet": None,
        "rerun_of": {"file": old["file"], "run": old.get("run")},
    }
    recorder = manifest.Recorder(model, request["dtype"], folder, pipe, policy, about, time.perf_counter() - start)
    ((pieces, drift),) = frames_of(pipe, [clip])
    with tempfile.TemporaryDirectory() as temporary:
        file = target or Path(temporary) / f"again{suffix}"
        new = manifest.read(recorder.write(file, clip, pieces, drift, given=request.get("given")))
        checksum = old["result"].get("frames_sha256")
        identical = new["result"]["frames_sha256"] == checksum
        closeness = "" if identical or state == "missing" else file_psnr(original, file)
    return Rerun(checksum, state, identical, [f"stack.{line}" for line in differences(stack, new["stack"])], closeness)


def _state(file: Path, sha256: str | None) -> str:
    """The state of a file since its manifest was written."""
    if not file.is_file():
        return "missing"
    return "as written" if sha256 is None or file_sha256(file) == sha256 else "changed"


def _checked(output: str, suffix: str, original: Path, path: Path) -> Path:
    """The output path; InputError also where it, or the manifest beside it, would replace what it is compared with."""
    from mindsora.media import check_output

    if Path(output).resolve() == original.resolve() or manifest.beside(output).resolve() == path.resolve():
        another = original.with_name(f"{original.stem}-again{suffix}")
        raise InputError(
            f"--output {output!r} would replace what the new file is compared with; name another, such as "
            f"{str(another)!r}"
        )
    return check_output(output, [suffix])


def clip_of(index: zoo.ModelIndex, asked: dict):
    """The Request or the LongVideo that a manifest's `request` asks for, with the frames that it is given."""
    request, files = manifest.request_of(index, asked), GivenFiles.from_record(asked.get("given"))
    frames, long = files.read(index, request.size), asked.get("long_video")
    if long is None:
        return request.showing(index, frames, files.noise_strength)
    from mindsora.pipelines.long_video import LongVideo

    if not all(fits(long.get(name), hint) for name, hint in LONG_VIDEO.items()):
        raise InputError(f"request.long_video of the manifest is not as `generate` writes it: {shown(repr(long))}")
    shots = tuple(long["prompts"])
    request = replace(request, prompts=shots, negatives=request.negatives * len(shots)).showing(index, frames)
    return LongVideo.lasting(index, request, long["duration"], long["overlap"], long["noise_strength"])
