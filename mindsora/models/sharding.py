"""How the ranks of a parallel training share a model's parameters."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Sharding:
    """Rules over upstream's names of parameters.

    Attributes:
        split: (pattern, axis): how tensor parallelism cuts a tensor, first full match wins; every rank holds the others
            whole.
        heads: the config.json key that the number of tensor-parallel ranks must divide.
        stages: the list of stages that MindSpeed-MM's pipeline-parallel ranks divide, "transformer_blocks" for names such
            as "transformer_blocks.3.0.attn1.to_q.weight"; "": the model was not trained there.
    """

    split: tuple[tuple[str, int], ...]
    heads: str
    stages: str = ""

    def axis(self, name: str) -> int | None:
        """The axis along which tensor-parallel ranks split a tensor; None: every rank holds all of it."""
        return next((axis for pattern, axis in self.split if re.fullmatch(pattern, name)), None)

    def is_staged(self, name: str) -> bool:
        """Whether a tensor belongs to one pipeline-parallel rank alone."""
        return name.startswith(f"{self.stages}.")

    def stage(self, name: str) -> int | None:
        """The number of the stage that a tensor is in; None: it has none."""
        match = self._match(name)
        return int(match[1]) if match else None

    def shifted(self, name: str, offset: int) -> str:
        """The name with its stage number raised by `offset`: each pipeline-parallel rank counts its stages from 0."""
        match = self._match(name)
        return f"{self.stages}.{int(match[1]) + offset}.{match[2]}" if match else name

    def _match(self, name: str) -> re.Match | None:
        return re.fullmatch(rf"{re.escape(self.stages)}\.(0|[1-9][0-9]{{0,5}})\.(.*)", name, re.DOTALL)
