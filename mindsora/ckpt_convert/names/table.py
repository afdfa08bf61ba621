"""The form every name table has, read in both directions."""

import importlib
import re
from dataclasses import dataclass, field
from typing import Callable

import numpy as np

# Cell class name -> module under mindsora.ckpt_convert.names holding its TABLE
_TABLES = {"WFVAE": "wfvae", "SUV": "suv", "T5Encoder": "t5", "CLIPTextModel": "clip"}


@dataclass(frozen=True)
class NameTable:
    """How one model's parameters are called upstream.

    Attributes:
        rules: (our regular expression, replacement template giving upstream's name), tried in order, first full
            match wins; a parameter that matches none has the same name on both sides.
        aliases: (upstream pattern, replacement template) normalising other spellings of upstream's names (wrapper
            prefixes, older names) before anything is compared.
        ignored: patterns of upstream names that carry no weight of this Cell and are dropped on import.
        constants: given a Cell, the fixed tensors upstream stores beside the weights; optional on import (and then
            checked against these values), written on export.
        tolerated: given a Cell, upstream names that may stand in a checkpoint without belonging to this Cell, for
            tensors whose names depend on its configuration; dropped on import.
    """

    rules: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    constants: Callable[[object], dict[str, np.ndarray]] = field(default=lambda cell: {})
    tolerated: Callable[[object], frozenset[str]] = field(default=lambda cell: frozenset())

    def upstream_name(self, name: str) -> str:
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, name):
                return match.expand(replacement)
        return name

    def normalise(self, upstream: str) -> str | None:
        """Upstream's canonical spelling of a key, or None where the key is not a weight of this model."""
        for pattern, replacement in self.aliases:
            if match := re.fullmatch(pattern, upstream):
                upstream = match.expand(replacement)
        return None if any(re.fullmatch(pattern, upstream) for pattern in self.ignored) else upstream


def table_for(cell) -> NameTable:
    """The name table of a model Cell (by its class name)."""
    return importlib.import_module(f"mindsora.ckpt_convert.names.{_TABLES[type(cell).__name__]}").TABLE
