"""The format of every name table; tables are read in both directions."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class NameTable:
    """How one model's parameters are called upstream.

    Attributes:
        stem: what upstream's libraries call the weight file, without its ending.
        signature: upstream names that are in every checkpoint of this model and, together, in no other's, except
            models with a longer signature.
        infer: upstream names and shapes -> (the config.json keys they decide, the keys they leave open with the values
            of the released models).
        often_wrong: keys in which published config.json files contradict the weights; the weights decide.
        plain: converts any spelling of upstream's configuration to the keys of its config.json.
        class_name: the `_class_name` given to a configuration without one; None: none.
        rules: (our regular expression, replacement template giving upstream's name), tried in order, first full
            match wins; a parameter that matches none has the same name on both sides.
        aliases: (upstream pattern, replacement template) normalising other spellings of upstream's names (wrapper
            prefixes, older names) before anything is compared.
        ignored: patterns of upstream names that carry no weight of this Cell and are dropped on import.
        settings: upstream names of tensors that are keys of config.json here, with one value or one per channel.
        tied: maps second names under which upstream's state dict repeats a tensor to the first; torch files get both.
        constants: given a Cell, the fixed tensors upstream stores beside the weights; optional on import (and then
            checked against these values), written on export.
        tolerated: given a Cell, upstream names that a checkpoint may contain although they are not of this Cell, for
            tensors whose names depend on its configuration; dropped on import.
    """

    stem: str
    signature: tuple[str, ...]
    infer: Callable[[Shapes], tuple[dict, dict]]
    often_wrong: frozenset[str] = frozenset()
    plain: Callable[[Mapping], dict] = dict
    class_name: Callable[[Mapping], str] | None = None
    rules: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    constants: Callable[[object], dict[str, np.ndarray]] = field(default=lambda cell: {})
    tolerated: Callable[[object], frozenset[str]] = field(default=lambda cell: frozenset())

    def recognises(self, tensors: Collection[str]) -> bool:
        """Whether the whole signature is among these canonical upstream names."""
        return all(name in tensors for name in self.signature)

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


MAX_BLOCKS = 512  # of a model; limits the time and memory for building it


def indices(shapes: Shapes, pattern: str) -> set[tuple[str, ...]]:
    """The distinct indices that the groups of a pattern match in the names."""
    found = {match.groups() for name in shapes if (match := re.fullmatch(pattern, name))}
    if len(found) > MAX_BLOCKS:
        raise ValueError(f"{len(found)} blocks, at most {MAX_BLOCKS} are possible")
    return found


def count(shapes: Shapes, pattern: str) -> int:
    """The number of distinct indices that group 1 of a pattern matches in the names."""
    return len(indices(shapes, pattern))
