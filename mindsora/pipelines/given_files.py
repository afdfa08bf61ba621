"""Files that a clip is given frames in: how they are read, and what a manifest says of them. (No MindSpore here.)"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mindsora.config import from_dict
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.zoo import ModelIndex

if TYPE_CHECKING:
    from mindsora.pipelines.given_frames import GivenFrames


@dataclass(frozen=True)
class GivenFiles:
    """What a command is given, by name.

    Attributes:
        images: (file, time) of each picture; times as in `mindsora.pipelines.given_frames.given_frames`.
        video: a file whose last frames the clip goes on from.
        keep, fit, noise_strength: as in `given_frames` and `Request.showing`.
        sha256: file -> checksum that it must have; what is not named here may hold anything.
    """

    images: tuple[tuple[str, str | None], ...] = ()
    video: str | None = None
    keep: int | None = None
    fit: str = "cover"
    noise_strength: float = 0.0
    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping | None) -> GivenFiles:
        """From the `given` of a manifest's request: the files must still be those that it was written of."""
        files = from_dict(cls, {key: value for key, value in (record or {}).items() if key != "times"})
        images = files.images if isinstance(files.images, tuple) else (None,)
        pairs = all(isinstance(image, tuple) and len(image) == 2 for image in images)
        if not pairs or not isinstance(files.sha256, Mapping) or not isinstance(files.noise_strength, (int, float)):
            raise InputError(
                f"request.given of the manifest is not as `mindsora generate` writes it: {shown(repr(record), quote=False)}"
            )
        return files

    def read(self, index: ModelIndex, size: tuple[int, int, int]) -> GivenFrames | None:
        """The frames, for a clip of a size (frames, height, width); None where no files were given.

        Raises:
            InputError: a model that takes text alone; a file that is missing, cannot be read or has another checksum;
                or whatever `given_frames` refuses.
        """
        if self.names:
            option = "--image" if self.images else "--video"
            index.check_takes_frames(f"{option} {shown(self.names[0])} is given")
        for name, checksum in self.sha256.items():
            if not os.path.isfile(name):
                raise InputError(
                    f"given file {shown(name)} is not there any more; it had sha256 {shown(checksum, quote=False)}"
                )
            if (now := file_sha256(name)) != checksum:
                raise InputError(
                    f"given file {shown(name)} has changed: it had sha256 {shown(checksum, quote=False)}, now {now}"
                )
        if not self.names and self.keep is None:
            return None
        from mindsora.media import stream_video
        from mindsora.pipelines.given_frames import given_frames

        video = fps = None
        if self.video:
            video, fps = stream_video(self.video)
        return given_frames(size, index.fps, self.images, video, fps, self.keep, self.fit)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.images] + ([self.video] if self.video else [])

    def record(self, given: GivenFrames | None) -> dict | None:
        """What a manifest says: files, checksums, the numbers of the frames that were given, and how."""
        if given is None:
            return None
        return asdict(self) | {"sha256": {name: file_sha256(name) for name in self.names}, "times": list(given.times)}
