"""What a client asks for: the arguments of `mindsora.jobs.plan`, as JSON that a queue can keep. (No MindSpore here.)"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from mindsora.config import from_dict
from mindsora.errors import InputError
from mindsora.jobs.planning import Plan, plan
from mindsora.pipelines.given_files import GivenFiles
from mindsora.zoo import ModelIndex, find

LONGEST_PROMPT = 4000  # characters; the longest text that an encoder here reads is 512 tokens
MOST_SEEDS = 16
MOST_SHOTS = 64
MOST_IMAGES = 16
LARGEST_UPLOAD = 16 * 2**20  # bytes of one file
CLIP = "clip"  # stem of the files that a job makes


@dataclass(frozen=True)
class Asked:
    """A job's request.

    Attributes:
        model: a name or a folder.
        prompts: one; with a duration, the shots of one video.
        seeds: a clip for each.
        options: keywords of `Request.of`, those that are None left out.
        images: (file in the job's folder, time) of given pictures.
        video: file in the job's folder: to go on from, or of a reconstruction.
        keep, fit, noise_strength: as in `GivenFiles`.
        duration, overlap: of a long video, as in `mindsora.jobs.plan`.
        reconstruct: whether `video` goes through the autoencoder `model` and back; there are no prompts then.
        expected_sha256: of the frames, where the job repeats another.
    """

    model: str
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    options: dict = field(default_factory=dict)
    images: tuple[tuple[str, str | None], ...] = ()
    video: str | None = None
    keep: int | None = None
    fit: str = "cover"
    noise_strength: float = 0.0
    duration: float | None = None
    overlap: int | None = None
    reconstruct: bool = False
    expected_sha256: str | None = None

    def __post_init__(self):
        for name, values, most in (
            ("prompts", self.prompts, MOST_SHOTS),
            ("seeds", self.seeds, MOST_SEEDS),
            ("images", self.images, MOST_IMAGES),
        ):
            if len(values) > most:
                raise InputError(f"{len(values)} {name}: at most {most}")
        for text in (*self.prompts, self.options.get("negative_prompt") or ""):
            if len(text) > LONGEST_PROMPT:
                raise InputError(f"a prompt of {len(text)} characters: at most {LONGEST_PROMPT}")

    @classmethod
    def from_json(cls, content: dict) -> Asked:
        return from_dict(cls, content)

    def to_json(self) -> dict:
        return asdict(self)

    def plan(self, folder: Path) -> Plan:
        """The run of a job whose folder this is.

        Raises:
            InputError: anything wrong with the request or with the files that it gives.
        """
        index = ModelIndex.read(find(self.model))
        frames = self.options.get("num_frames", index.num_frames)
        suffix = ".png" if frames == 1 and self.duration is None else ".mp4"
        images = tuple((str(folder / name), time) for name, time in self.images)
        video = None if self.video is None else str(folder / self.video)
        return plan(
            self.model,
            self.prompts,
            folder / f"{CLIP}{suffix}",
            self.seeds,
            contact_sheet=True,
            given=GivenFiles(images, video, self.keep, self.fit, self.noise_strength),
            duration=self.duration,
            overlap=self.overlap,
            **self.options,
        )
