"""The form every name table has, read in both directions."""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

# Cell class name -> its folder under mindsora.models, and the table in the folder's names.py
_TABLES = {
    "WFVAE": ("wfvae", "TABLE"),
    "CausalVAE": ("causalvae", "TABLE"),
    "SUV": ("suv", "TABLE"),
    "OpenSoraInpaint": ("opensora", "INPAINT"),  # before OpenSoraT2V, whose names it has too
    "OpenSoraT2V": ("opensora", "T2V"),
    "T5Encoder": ("t5", "TABLE"),
    "CLIPTextModel": ("clip", "TABLE"),
}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class NameTable:
    """How one model's parameters are called upstream.

    Attributes:
        stem: what upstream's libraries call the weight file, without its ending.
        signature: upstream names that are in every checkpoint of this model and, together, in no other's, but for
            models that stand before it in MODELS.
        infer: upstream names and shapes -> (the config.json keys they decide, the keys they leave open with the values
            of the released models).
        rules: (our regular expression, replacement template giving upstream's name), tried in order, first full
            match wins; a parameter that matches none has the same name on both sides.
        aliases: (upstream pattern, replacement template) normalising other spellings of upstream's names (wrapper
            prefixes, older names) before anything is compared.
        ignored: patterns of upstream names that carry no weight of this Cell and are dropped on import.
        settings: upstream names of tensors that here are keys of config.json, of one value or one per channel.
        tied: second names under which upstream's state dict holds a tensor again, to the first; torch files get both.
        constants: given a Cell, the fixed tensors upstream stores beside the weights; optional on import (and then
            checked against these values), written on export.
        tolerated: given a Cell, upstream names that may stand in a checkpoint without belonging to this Cell, for
            tensors whose names depend on its configuration; dropped on import.
        split: (pattern of upstream names, axis): how tensor parallelism cuts a tensor, first full match wins; the
            others are the same on every rank. Empty: the model has no such layout.
        heads: the config.json key that a number of tensor-parallel ranks must divide.
    """

    stem: str
    signature: tuple[str, ...]
    infer: Callable[[Shapes], tuple[dict, dict]]
    rules: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    constants: Callable[[object], dict[str, np.ndarray]] = field(default=lambda cell: {})
    tolerated: Callable[[object], frozenset[str]] = field(default=lambda cell: frozenset())
    split: tuple[tuple[str, int], ...] = ()
    heads: str = ""

    def upstream_name(self, name: str) -> str:
        """A parameter's name to upstream's."""
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

    def split_axis(self, upstream: str) -> int | None:
        """The axis along which tensor-parallel ranks share a tensor; None: every rank holds all of it."""
        for pattern, axis in self.split:
            if re.fullmatch(pattern, upstream):
                return axis
        return None


def table_of(model: str) -> NameTable:
    """The name table of a model, by its class name."""
    return getattr(importlib.import_module(f"mindsora.models.{folder_of(model)}.names"), _TABLES[model][1])


def folder_of(model: str) -> str:
    """The folder under mindsora.models that has a model."""
    return _TABLES[model][0]


def table_for(cell) -> NameTable:
    """The name table of a model Cell (by its class name)."""
    return table_of(type(cell).__name__)


MODELS = tuple(_TABLES)  # in the order in which names are compared with their signatures
MAX_BLOCKS = 512  # of a model; bounds the time and memory that building it takes


def indices(shapes: Shapes, pattern: str) -> set[tuple[str, ...]]:
    """The different indices that the groups of a pattern take in the names."""
    found = {match.groups() for name in shapes if (match := re.fullmatch(pattern, name))}
    if len(found) > MAX_BLOCKS:
        raise ValueError(f"{len(found)} blocks, at most {MAX_BLOCKS} are possible")
    return found


def count(shapes: Shapes, pattern: str) -> int:
    """How many different indices group 1 of a pattern takes in the names."""
    return len(indices(shapes, pattern))
