"""Manifests: `FILE.json` beside every generated file records the request, what computed it, and the result.

With it `mindsora rerun` regenerates the file and `mindsora diff` compares two. The parts of a manifest:
    request   what was asked: model, prompt, seed and every parameter, defaults filled in; where frames were given,
              `given` (files, their sha256, times), of a long video `long_video` (duration, overlap, prompts), and
              `tile` where the autoencoder worked in tiles, and `lora` the LoRA files of the denoiser: path, scale, sha256;
              `solver` where it is not the scheduler's own
    run       the command, the date, and which clips the run made: one of eight seeds is recorded as one of eight; for a
              long video, the path of its drift report; for a rerun, the file and the run that it repeats; `refined` where
              a refiner rewrote the prompt: the original, what request.prompt has now, by what, and why it was kept
    text      what the text encoders read
    shapes    frames, latents, tokens
    stack     what computed it: versions, device, runtime settings, dtypes, operators, sha256 of every file of the model
    result    sha256 of the frames and of the file
    cost      seconds by phase, peak memory
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mindsora
from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256, whole_file, written_together
from mindsora.machine import cann_version, cores, device_part, processor, resident_memory, versions
from mindsora.media import write_clip
from mindsora.models import registry
from mindsora.pipelines.request import Request
from mindsora.ranges import fits, kind_of
from mindsora.runtime import ENVIRONMENT, Runtime
from mindsora.text.templates import template_for
from mindsora.zoo import COMPONENTS, ModelIndex

if TYPE_CHECKING:
    from mindsora.pipelines.long_video import LongVideo

FORMAT = "mindsora manifest 1"
PACKAGES = ("mindspore", "numpy", "av", "sentencepiece", "tokenizers")  # whose versions can change a clip
PARAMETERS = {
    "model": str, "prompt": str, "negative_prompt": str, "seed": int, "num_frames": int, "height": int, "width": int,
    "num_inference_steps": int, "guidance_scale": float, "guidance_rescale": float, "dtype": str | dict[str, str] | None,
}  # fmt: skip
EXTRAS = {
    "given": dict,
    "long_video": dict,
    "tile": int,
    "solver": str,
    "lora": tuple[dict, ...],
}  # parameters that are there only where they were asked for
OBJECTS = ("request", "stack", "stack.runtime", "stack.device", "result")
_LONGEST_NAME = 255  # bytes of a file name on every usual file system


class Recorder:
    """Writes the files of one run, each with its manifest. Create it after the model is loaded.

    Args:
        model, dtype: as the user gave them.
        folder: the model's folder.
        run: what all clips of the run share: `command`, `prompts` (how many), `seeds`, `contact_sheet`, `rerun_of`.
        load_seconds: loading time.
    """

    def __init__(self, model: str, dtype, folder: Path, pipe, policy: Runtime, run: dict, load_seconds: float):
        self.model, self.dtype, self.index = model, dtype, pipe.index
        self.pipe, self.policy, self.load_seconds = pipe, policy, load_seconds
        self.run = _dated(run)
        pool = ThreadPoolExecutor(1)
        # In the background while clips are made: the released weights are 21 GB.
        self._weights: Future = pool.submit(weight_checksums, folder)
        pool.shutdown(wait=False)

    def for_run(self, run: dict) -> Recorder:
        """A recorder for another run of the same pipeline; the checksums are not computed again."""
        another = copy.copy(self)
        another.run, another.load_seconds = _dated(run), 0.0
        return another

    def write(
        self,
        path: Path,
        clip: Request | LongVideo,
        pieces: Iterable[np.ndarray],
        drift=None,
        prompt_number: int = 0,
        given: dict | None = None,
        refined: dict | None = None,
    ) -> Path:
        """Write a clip, the drift report of a long video, and the manifest: all of them or none.

        Returns the manifest's path.

        Args:
            path: path of the clip, .mp4 or .png.
            clip: a Request of this clip alone, or a LongVideo.
            pieces, drift: as `mindsora.jobs.frames_of` returns them.
            prompt_number: its line in the run's prompts.
            given: of EXTRAS.
            refined: what a refiner made of the prompt.
        """
        run = self.run | {"prompt_number": prompt_number} | ({} if refined is None else {"refined": refined})
        with written_together(path) as folder:
            self._write(folder / path.name, clip, pieces, drift, run, given)
        self.pipe.seconds.clear()  # each manifest records its own clip only
        return beside(path)

    def _write(self, path: Path, clip: Request | LongVideo, pieces, drift, run: dict, given: dict | None) -> None:
        digest, start, worked = hashlib.sha256(), time.perf_counter(), self.pipe.worked
        write_clip(hashed(pieces, digest), path, self.index.fps)  # never all frames at once
        writing = time.perf_counter() - start - (self.pipe.worked - worked)
        extras = {} if given is None else {"given": given}
        request = clip if isinstance(clip, Request) else clip.request
        if request.tile is not None:
            extras |= {"tile": request.tile.size}
        if request.solver is not None:
            extras |= {"solver": request.solver}
        if self.pipe.loras:
            extras |= {"lora": [asdict(lora) for lora in self.pipe.loras]}
        if drift is not None:
            extras |= {"long_video": clip.record(self.index)}
            run |= {"drift": clip.write_drift(path, drift).name}
        content = self.described(request, clip.num_frames, extras) | {
            "run": run,
            "result": {"frames_sha256": digest.hexdigest(), "file_sha256": file_sha256(path)},
            "cost": {
                "seconds": rounded({"load": self.load_seconds} | self.pipe.seconds | {"write": writing}),
                "peak_memory_bytes": peak_memory(),
            },
        }
        write(path, content)

    def write_sheet(self, path: Path, clips: list[str]) -> Path:
        """Write the manifest of a contact sheet: which files it shows."""
        result = {"file_sha256": file_sha256(path)}
        return write(path, {"clips": clips, "request": {"model": self.model}, "run": self.run, "result": result})

    def described(self, request: Request, num_frames: int, extras: dict) -> dict:
        """Request, text, shapes and stack: all that does not depend on the result.

        Args:
            request: of the clip, or of a long video's windows.
            num_frames: of the file.
            extras: entries of `request` named in EXTRAS.
        """
        index = self.index
        latents = index.shapes.latent(*request.size)
        texts = [self._text(*texts, request.guidance_scale > 1) for texts in zip(request.prompts, request.negatives)]
        frames, height, width = request.size
        return {
            "request": {
                "model": self.model,
                "prompt": request.prompts[0],
                "negative_prompt": request.negatives[0],
                "seed": request.seed,
                "num_frames": frames,
                "height": height,
                "width": width,
                "num_inference_steps": request.num_inference_steps,
                "guidance_scale": request.guidance_scale,
                "guidance_rescale": request.guidance_rescale,
                "dtype": self.dtype,
            }
            | extras,
            "text": texts if len(texts) > 1 else texts[0],
            "shapes": {
                "frames": [num_frames, height, width, 3],
                "fps": index.fps,
                "latents": [self.pipe.transformer.config.in_channels, *latents],
                "tokens": index.shapes.tokens(*request.size),
            },
            "stack": stack(self.policy, self.pipe, self._weights.result()),
        }

    def _text(self, prompt: str, negative_prompt: str, guided: bool) -> dict:
        positive, negative = template_for(self.index.template).apply(prompt, negative_prompt)
        cut = {type(tokenizer).__name__: tokenizer.truncated(positive) for tokenizer in self.pipe.tokenizers}
        return {
            "positive": positive,
            "negative": negative if guided else None,
            "cut_off": {name: words for name, words in cut.items() if words},
        }


def _dated(run: dict) -> dict:
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")} | run


def stack(policy: Runtime, pipe, weights: dict[str, str]) -> dict:
    """What computes a clip; two runs with the same stack give the same bytes."""
    import mindspore as ms

    device = ms.get_current_device()
    return {
        "versions": {
            "mindsora": mindsora.__version__,
            "mindsora_source": source_sha256(),
            "cann": cann_version(),
            "python": platform.python_version(),
        }
        | versions(PACKAGES),
        "device": {
            "name": device.device_target,
            "processor": processor(),
            "machine": platform.machine(),
            "cores": cores(),
            "part": device_part(),
        },
        "runtime": {k: v for k, v in asdict(policy).items() if k not in ("device", "profile")},
        "environment": {
            name: os.environ[name]
            for name in (*ENVIRONMENT, "MINDSORA_KERNELS", "OMP_NUM_THREADS")
            if name in os.environ
        },
        "offload": pipe.offload,
        "parallel": str(pipe.mesh.layout),
        "dtypes": {name: dtypes(cell) for name, cell in pipe.cells.items()},
        "kernels": {name: kernels(cell) for name, cell in pipe.cells.items()},
        "weights": weights,
    }


def dtypes(cell) -> str:
    """The dtypes of a Cell's parameters, the commonest first."""
    kinds = [str(p.dtype).lower() for p in cell.get_parameters()]
    return ", ".join(sorted(set(kinds), key=lambda kind: -kinds.count(kind)))


def kernels(cell) -> dict[str, str]:
    """Operator -> the implementation that runs for a model in its dtype; on Ascend, where its shapes fit."""
    import mindspore as ms

    from mindsora.kernels.choice import choose

    spec, dtype = registry.spec_of(cell), next(cell.get_parameters()).dtype
    tables = ms.float32 if spec.float32_angles else dtype
    inputs = dict.fromkeys(("x", "q", "weight", "gate"), dtype) | {"tables": tables}
    implementations = {name: choose(name, inputs) for name in spec.operators}
    if implementations.get("skiparse_attention") == "ascend_builtin":  # the others permute by themselves
        implementations["skiparse_permute"] = choose("skiparse_permute", inputs)
    return implementations


def weight_checksums(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file of a model folder that a pipeline reads."""
    from mindsora.ckpt_convert.checkpoint import weight_files

    files = [folder / "model_index.json"]
    for name in COMPONENTS:
        files += sorted(path for path in (folder / name).glob("*") if path.suffix in (".json", ".model", ".txt"))
        if (folder / name / "config.json").is_file():  # a Cell's: tokenisers and the scheduler have none
            files += weight_files(folder / name)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def source_sha256() -> str:
    """Checksum of MindSora's own code: between two releases the version number does not identify it."""
    digest, package = hashlib.sha256(), Path(mindsora.__file__).parent
    for path in sorted(path for ending in ("py", "cpp", "h") for path in package.rglob(f"*.{ending}")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def hashed(chunks: Iterable[np.ndarray], digest) -> Iterator[np.ndarray]:
    """Yield the chunks (n, H, W, 3) uint8 of a clip unchanged, and feed their bytes to a hashlib digest.

    The digest is the checksum of the frames in row-major order, before any video codec.
    """
    for chunk in chunks:
        digest.update(np.ascontiguousarray(chunk))
        yield chunk


def peak_memory() -> dict[str, int]:
    """Highest resident memory of this process so far and, on Ascend, of the device's pool; in bytes."""
    import mindspore as ms

    found = {"host": resident_memory()["peak"]}
    if ms.get_current_device().device_target == "Ascend":  # the CPU's pool reports nothing
        found["device"] = ms.runtime.max_memory_allocated()
    return found


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def beside(path: str | os.PathLike) -> Path:
    """The path of the manifest of a file."""
    path = Path(path)
    return path.with_name(f"{path.name}.json")


def write(path: str | os.PathLike, content: dict) -> Path:
    """Write the manifest of the file `path`: completely or not at all."""
    target = beside(path)
    with whole_file(target) as temporary:
        text = json.dumps({"format": FORMAT, "file": Path(path).name} | content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return target


def read(path: str | os.PathLike) -> dict:
    """A clip's manifest, checked.

    Raises:
        InputError: not a manifest, one of a contact sheet, or one that lacks a part.
    """
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(f"{shown(path)} is no manifest: its format is {shown(content.get('format'))}, not {FORMAT!r}")
    if "clips" in content:
        clips = content["clips"] if fits(content["clips"], tuple[str, ...]) else []
        names = ", ".join(shown(f"{clip}.json", 80, quote=False) for clip in clips[:4])
        raise InputError(f"{shown(path)} belongs to a contact sheet; name the manifest of one clip: {names}")
    if not _is_file_name(content.get("file")):
        raise InputError(
            f"{shown(path)}: file is {_told(content, 'file')}; it must be the name of the file "
            f"that the manifest stands beside, such as {shown(Path(path).stem)}"
        )
    for name in OBJECTS:
        part = content
        for key in name.split("."):
            part = part.get(key) if isinstance(part, dict) else None
        if not isinstance(part, dict):
            raise InputError(f"{shown(path)} lacks {name}; it is no whole manifest")
    request = content["request"]
    for name, hint in (PARAMETERS | {name: hint for name, hint in EXTRAS.items() if name in request}).items():
        if name not in request or not fits(request[name], hint):
            raise InputError(f"{shown(path)}: request.{name} is {_told(request, name)}, not of type {kind_of(hint)}")
    if unknown := request.keys() - PARAMETERS.keys() - EXTRAS.keys():
        raise InputError(f"{shown(path)}: request has an unknown key {shown(sorted(unknown)[0])}")
    return content


def _is_file_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name != ""
        and "\0" not in name
        and Path(name).name == name
        and len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
    )


def _told(part: dict, name: str) -> str:
    return shown(repr(part.get(name, "missing")), quote=False)


def request_of(index: ModelIndex, asked: dict) -> Request:
    """The Request of a manifest's `request`."""
    options = {name: value for name, value in asked.items() if name not in ("model", "dtype", *EXTRAS)}
    return Request.of(index, **options, tile=asked.get("tile"), solver=asked.get("solver"))
