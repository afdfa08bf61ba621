"""Makes what a plan says: loads the model, writes every file with its manifest, then the contact sheet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mindsora
from mindsora import manifest, media, runtime
from mindsora.compile_cache import check_folder, compile_cache
from mindsora.errors import InputError
from mindsora.jobs.planning import Job, Plan
from mindsora.jobs.refining import refined, refined_record
from mindsora.pipelines.drift import Drift
from mindsora.pipelines.long_video import LongVideo, stream
from mindsora.pipelines.request import Request
from mindsora.runtime import Runtime

if TYPE_CHECKING:
    from mindsora.parallel.layout import Mesh


@dataclass(frozen=True)
class Written:
    """A file of a run, with its manifest beside it. The contact sheet belongs to no job."""

    path: Path
    manifest: Path
    job: Job | None = None


def run(
    plan: Plan,
    policy: Runtime | None = None,
    *,
    dtype: str | dict[str, str] | None = None,
    offload: bool = False,
    cache: str | None = None,
    quiet: bool = False,
    command: str | None = None,
    callback_on_step_end: Callable | None = None,
    mesh: Mesh | None = None,
) -> Iterator[Written]:
    """Refine the prompts where the plan says so, load the model, and yield each file once it is written. To stop early,
    close the generator: what is written stays.

    Args:
        policy: what the caller has applied; `jit` and `profile` are read here, the rest goes into the manifests.
        dtype, offload: as for TextToVideoPipeline.from_pretrained.
        cache: a folder for compiled graphs.
        quiet: no progress bar, no line for loading and compiling.
        command: what manifests name as the command.
        callback_on_step_end: as the pipeline's call has it: sees every denoising step.
        mesh: groups of ranks that make each clip together; the first of them writes it and yields it.

    Raises:
        InputError: as from_pretrained, or a clip without guidance for ranks that share guidance.
    """
    from mindsora.parallel.layout import single  # imports MindSpore, which a plan does without

    policy, mesh = policy or Runtime(), mesh or single()
    check_folder(cache)
    if plan.refiner is not None and mesh.clip.size > 1:
        raise InputError(
            f"parallel {mesh.layout}: each rank would refine for itself, and answers may differ; refine first"
        )
    plan = refined(plan, quiet)  # before the model loads: a refiner of 8B parameters takes the memory first
    if mesh.cfg.size > 1 and not all(job.request.guided for job in plan.jobs):
        raise InputError(f"parallel {mesh.layout}: cfg splits guidance, and guidance_scale up to 1 has none; use cp")
    pipe, loading = load(plan, policy, dtype, offload, mesh)
    pipe.set_progress_bar_config(disable=quiet)
    if not quiet:
        print(f"loaded {plan.model} in {loading:.1f} s", file=sys.stderr)
    recorder = manifest.Recorder(plan.model, dtype, plan.folder, pipe, policy, about(plan, command), loading)
    requests = [job.request for job in plan.jobs]
    # A long video decodes its windows one by one, and given frames may be encoded in graphs.
    kinds = [(type(job.clip).__name__, bool(plan.given)) for job in plan.jobs]
    graphs = cache and [manifest.stack(policy, pipe, {}), pipe.graphs(requests), kinds, runtime.rank()]
    with policy.profiling(), compile_cache(cache, graphs):
        yield from write(plan, pipe, recorder, callback_on_step_end)


def load(
    plan: Plan,
    policy: Runtime,
    dtype: str | dict[str, str] | None = None,
    offload: bool = False,
    mesh: Mesh | None = None,
):
    """The pipeline of a plan with its LoRA files, and the seconds that loading took."""
    start = time.perf_counter()
    pipeline = getattr(mindsora, plan.index.pipeline)
    pipe = pipeline.from_pretrained(plan.model, dtype=dtype, jit=policy.jit, offload=offload, parallel=mesh)
    for lora in plan.loras:
        pipe.load_lora_weights(lora.file, lora.scale)
    return pipe, time.perf_counter() - start


def about(plan: Plan, command: str | None = None) -> dict:
    """What the manifests of a plan's clips say of the run."""
    return {
        "command": command,
        "prompts": plan.prompts,
        "seeds": list(plan.seeds),
        "contact_sheet": plan.sheet.name if plan.sheet else None,
    }


def write(
    plan: Plan, pipe, recorder: manifest.Recorder, callback_on_step_end: Callable | None = None
) -> Iterator[Written]:
    """As `run`, with a pipeline that is loaded."""
    if not pipe.writes:
        for pieces, _ in frames_of(pipe, [job.clip for job in plan.jobs], callback_on_step_end):
            for _ in pieces:
                pass
        return
    clips, labels = [], []
    frames = frames_of(pipe, [job.clip for job in plan.jobs], callback_on_step_end)
    for job, (pieces, drift) in zip(plan.jobs, frames, strict=True):
        shown = []
        pieces = media.picked(pieces, _on_sheet(plan.sheet, job.clip.num_frames), shown)
        change = refined_record(plan, job)
        described = recorder.write(job.path, job.clip, pieces, drift, job.prompt_number, plan.given, change)
        clips.append(shown)
        labels.append(_label(job.request, plan.labels_name_seeds))
        yield Written(job.path, described, job)
    if plan.sheet and clips:
        media.contact_sheet(clips, labels, plan.sheet, fps=plan.index.fps)
        yield Written(plan.sheet, recorder.write_sheet(plan.sheet, [job.path.name for job in plan.jobs]))


def frames_of(
    pipe, clips: Sequence[Request | LongVideo], callback_on_step_end: Callable | None = None
) -> Iterator[tuple[Iterator[np.ndarray], Drift | None]]:
    """The frames of each clip in turn, as they are made.

    Args:
        pipe: the pipeline of the model.
        clips: all Requests of one clip each, or all LongVideos.

    Yields:
        Pieces (n, H, W, 3) uint8 of a clip; and the Drift of a LongVideo, complete after the last piece, or None.
    """
    videos = [clip for clip in clips if isinstance(clip, LongVideo)]
    for video in videos:
        drift = Drift()
        yield stream(pipe, video, drift, callback_on_step_end), drift
    requests = [clip for clip in clips if isinstance(clip, Request)]
    for request, latents in zip(requests, pipe.sample(requests, callback_on_step_end), strict=True):
        yield map(media.to_uint8, pipe.decode_chunks(latents, request.tile)), None


def _on_sheet(sheet: Path | None, num_frames: int) -> Sequence[int]:
    """Numbers of the frames that a contact sheet shows: a moving one shows all."""
    if sheet is None:
        return []
    return range(num_frames) if sheet.suffix.lower() == ".webp" else media.spread(num_frames)


def _label(request: Request, name_seed: bool) -> str:
    prompts = " | ".join(request.prompts)
    return f"{prompts} (seed {request.seed})" if name_seed else prompts
