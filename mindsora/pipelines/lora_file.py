"""LoRA files that a run is given: path, scale and checksum. (No MindSpore here: `mindsora generate` checks them first.)"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from mindsora.ckpt_convert.checkpoint import open_checkpoint, weight_files
from mindsora.ckpt_convert.lora import Update, fitted, read_lora
from mindsora.ckpt_convert.recognise import upstream_entries
from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.models.spec import ModelSpec


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA and its scale, as a user gives them and a manifest records them.

    Attributes:
        file: path of the file, or of a folder that holds this one file of weights.
        scale: factor of the update: 1 as trained, 0 none.
        sha256: of the file; None where nobody has computed it.
    """

    file: str
    scale: float = 1.0
    sha256: str | None = None

    def __post_init__(self):
        if not math.isfinite(self.scale):
            raise InputError(f"LoRA {shown(self.file)}: scale {self.scale} must be a finite number, such as 1.0")

    @classmethod
    def parse(cls, text: str) -> "LoRAFile":
        """From `FILE[:SCALE]`; a path that exists is taken whole. InputError: the scale is no finite number."""
        path, colon, number = text.rpartition(":")
        if not colon or not path or os.path.exists(text):
            return cls(text)
        try:
            return cls(path, float(number))
        except ValueError as error:  # InputError is one too
            raise InputError(
                f"LoRA {shown(text)}: write FILE or FILE:SCALE with a finite scale, such as {path}:0.8"
            ) from error

    def pinned(self) -> "LoRAFile":
        """The same with the checksum of the file as it is now. InputError: there is no such file."""
        (file, *more) = weight_files(self.file)
        if more:
            raise InputError(f"LoRA {shown(self.file)} is split into {1 + len(more)} files; give it as one")
        return replace(self, sha256=file_sha256(file))

    def read(self, transformer: Path, spec: ModelSpec) -> dict[str, Update]:
        """Upstream's name of a weight -> its update.

        Args:
            transformer: folder of the denoiser's weights, of which only headers are read.
            spec: the denoiser's.

        Raises:
            InputError: a file that is missing, is no LoRA, does not fit the denoiser, or has another checksum.
        """
        if self.sha256 is not None and (now := self.pinned().sha256) != self.sha256:
            raise InputError(
                f"LoRA {shown(self.file)} has changed: it had sha256 {shown(self.sha256, quote=False)}, now {now}"
            )
        with open_checkpoint(transformer) as checkpoint:
            shapes = {name: entry.shape for name, entry in upstream_entries(spec.names, checkpoint).items()}
        return fitted(read_lora(self.file, self.scale), shapes, self.file, spec.name)
