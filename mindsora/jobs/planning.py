"""What a run makes: prompts x seeds, shared between ranks, checked before a model is loaded. (No MindSpore here.)"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mindsora import zoo
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.pipelines.given_files import GivenFiles
from mindsora.pipelines.lora_file import LoRAFile
from mindsora.pipelines.request import Request
from mindsora.refine import BackEnd, Refined, back_end

if TYPE_CHECKING:
    from mindsora.pipelines.long_video import LongVideo

SEED_LIMIT = 1000  # seeds in one range
PROMPT_LIMIT = 1000  # lines in a prompt file, as upstream
PROMPT_BYTES = 16 * 2**20  # of a prompt file


@dataclass(frozen=True)
class Job:
    """One file to make.

    Attributes:
        clip: a Request of this clip alone, or a LongVideo of several windows.
        path: .mp4, or .png for one frame.
        prompt_number: its line in the run's prompts.
        refined: what became of the prompt that the user wrote; None: the request has it.
    """

    clip: Request | LongVideo
    path: Path
    prompt_number: int
    refined: Refined | None = None

    @property
    def request(self) -> Request:
        """The clip's, or that of a long video's windows."""
        return self.clip if isinstance(self.clip, Request) else self.clip.request


@dataclass(frozen=True)
class Plan:
    """What one rank makes of a run.

    Attributes:
        model: as the caller named it; `folder` and `index` are the model's.
        jobs: of this rank alone, in order.
        prompts, seeds: of all ranks: how many prompts, which seeds.
        sheet: the contact sheet of this rank, if one is wanted.
        labels_name_seeds: whether the labels of the contact sheet do.
        given: what a manifest says of the files that frames were given in.
        loras: for the denoiser.
        refiner: rewrites the prompts before the model loads; None: they stay.
        refined_by: its name in manifests.
    """

    model: str
    folder: Path
    index: zoo.ModelIndex
    jobs: tuple[Job, ...]
    prompts: int
    seeds: tuple[int, ...]
    sheet: Path | None
    labels_name_seeds: bool
    given: dict | None
    loras: tuple[LoRAFile, ...] = ()
    refiner: BackEnd | None = None
    refined_by: str = ""


def plan(
    model: str,
    prompts: Sequence[str],
    output: str | os.PathLike,
    seeds: Sequence[int] = (0,),
    *,
    contact_sheet: str | os.PathLike | bool = False,
    given: GivenFiles | None = None,
    loras: Sequence[LoRAFile] = (),
    refiner: str | BackEnd | None = None,
    duration: float | None = None,
    overlap: int | None = None,
    rank: int = 0,
    world: int = 1,
    num_frames: int | None = None,
    size: str | None = None,
    **options,
) -> Plan:
    """One job for every prompt and seed; with a duration, one for every seed.

    Args:
        model: a name or a folder.
        prompts: with a duration they are the shots of one video.
        output: .mp4, or .png for one frame. Several clips are FILE-PROMPT-SEED (both numbers).
        contact_sheet: a .png, or a .webp that moves; True is FILE-seeds.png.
        given: files that frames are given in.
        loras: LoRA files for the denoiser.
        refiner: rewrites every prompt, see `mindsora.refine.back_end`; for text to video.
        duration: seconds of a long video, made window after window.
        overlap: frames that a window of it is given of the one before; None is about an eighth of a window.
        rank, world: this rank takes the prompts rank, rank + world, ...
        num_frames: None is the model's default; one frame where the output is a .png.
        size: "from-image": height and width follow the first picture of `given`.
        options: further keywords of `Request.of`.

    Raises:
        InputError: anything wrong with the request, the given files, the LoRA files, the refiner or the paths.
    """
    folder = zoo.find(model)
    index = zoo.ModelIndex.read(folder)
    if refiner is not None and index.takes_frames:
        raise InputError(
            f"refiner: {shown(model)} makes videos from given frames, which cannot show what a refined prompt adds; "
            "refine the prompts of a text-to-video model, or leave the refiner out"
        )
    for lora in loras:
        lora.read(folder / "transformer", registry.spec(index.transformer[1]))
    if num_frames is None and duration is None and Path(output).suffix.lower() == ".png":
        num_frames = 1
    options |= {"num_frames": num_frames}
    given = given or GivenFiles()
    if size is not None:
        from mindsora.pipelines.given_frames import from_image

        options |= from_image(index, size, given.images, options)
    whole = [Request.of(index, prompts, seed=seed, **options) for seed in seeds]  # all prompts in each
    frames = given.read(index, whole[0].size)
    if duration is not None:
        from mindsora.pipelines.long_video import LongVideo

        lasting = duration, overlap, given.noise_strength
        clips: list[Request | LongVideo] = [
            LongVideo.lasting(index, request.showing(index, frames), *lasting) for request in whole
        ]
    elif overlap is not None:
        raise InputError(f"overlap = {overlap}: the windows of a long video overlap; give duration too")
    else:
        clips = [
            Request.of(index, prompt, seed=seed, **options).showing(index, frames, given.noise_strength)
            for prompt in prompts
            for seed in seeds
        ]
    paths = _paths(output, suffix_of(clips[0]), 1 if duration is not None else len(prompts), seeds)
    jobs = [Job(clip, path, n // len(seeds)) for n, (clip, path) in enumerate(zip(clips, paths, strict=True))]
    return Plan(
        model=model,
        folder=folder,
        index=index,
        jobs=tuple(job for job in jobs if job.prompt_number % world == rank),
        prompts=len(prompts),
        seeds=tuple(seeds),
        sheet=_sheet(contact_sheet, Path(output), paths, f"-rank{rank}" if world > 1 else ""),
        labels_name_seeds=len(seeds) > 1 or contact_sheet is True,
        given=given.record(frames),
        loras=tuple(loras),
        refiner=back_end(refiner) if isinstance(refiner, str) else refiner,
        refined_by=refiner if isinstance(refiner, str) else getattr(refiner, "__name__", "a function"),
    )


def read_prompts(path: str | os.PathLike) -> list[str]:
    """The lines of a prompt file that are not blank: UTF-8, with or without a byte order mark; only newlines end a line.

    Raises:
        InputError: an unreadable file, no prompt, or more than PROMPT_LIMIT.
    """
    try:
        if not os.path.isfile(path):  # a pipe or a device may never end
            raise InputError(f"prompt file {shown(path)} does not exist, or is not a file")
        with open(path, "rb") as file:
            content = file.read(PROMPT_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"cannot read prompt file {shown(path)}: {reason}") from error
    if len(content) > PROMPT_BYTES:
        raise InputError(f"prompt file {shown(path)} is longer than {PROMPT_BYTES} bytes")
    prompts = [line.strip() for line in text.split("\n") if line.strip()]  # splitlines() would split at form feeds too
    if not 1 <= len(prompts) <= PROMPT_LIMIT:
        raise InputError(f"prompt file {shown(path)} has {len(prompts)} prompts: give 1 to {PROMPT_LIMIT}")
    return prompts


def parse_seeds(text: str) -> list[int]:
    """0,1,2 or 0-7, or both mixed; each seed once.

    Raises:
        InputError: something else, or a range that goes down or over SEED_LIMIT seeds.
    """
    numbers: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(-?\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not bounds:
            raise InputError(f"{text!r} is not whole numbers separated by commas, such as 0,1,2 or 0-7")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if not first <= last < first + SEED_LIMIT:
            raise InputError(f"{part!r} must go up, and by {SEED_LIMIT} seeds at most, such as 0-7")
        numbers += range(first, last + 1)
    return list(dict.fromkeys(numbers))


def suffix_of(clip: Request | LongVideo) -> str:
    """How the file of a clip ends: one frame is a picture."""
    return ".png" if clip.num_frames == 1 else ".mp4"


def _paths(output: str | os.PathLike, suffix: str, prompts: int, seeds: Sequence[int]) -> list[Path]:
    """The file of every prompt and seed."""
    from mindsora.media import check_output

    path = check_output(output, [suffix])
    if prompts * len(seeds) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{n:03d}-{seed}{path.suffix}") for n in range(prompts) for seed in seeds]


def _sheet(wanted: str | os.PathLike | bool, output: Path, paths: list[Path], rank: str) -> Path | None:
    """The path of the contact sheet; `rank` is what its name says of the rank."""
    from mindsora.media import SHEETS, check_output

    if not wanted:
        return None
    sheet = check_output(output.with_name(f"{output.stem}-seeds.png") if wanted is True else wanted, SHEETS)
    sheet = sheet.with_name(f"{sheet.stem}{rank}{sheet.suffix}")
    if sheet.name in {path.name for path in paths} and sheet.parent.resolve() == output.parent.resolve():
        raise InputError(
            f"contact sheet {str(sheet)!r} would replace a clip of that name; name another file, such as "
            f"{str(output.with_name(f'{output.stem}-sheet.png'))!r}"
        )
    return sheet
