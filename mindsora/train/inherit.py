"""Recipes that begin from another one: `base: ../base.yaml` names the file whose values a recipe keeps or replaces."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mindsora.config import read_yaml
from mindsora.errors import InputError, shown

BASE = "base"


def inherited(path: str | os.PathLike, seen: tuple[Path, ...] = ()) -> DictConfig:
    """The values of a recipe and of its bases. Sections merge key by key; any other value, such as a list, is replaced.

    Args:
        path: the recipe. Its `base` is relative to its own folder.
        seen: recipes that begin from this one.

    Raises:
        InputError: no such file, or a recipe that begins from itself.
    """
    values, place = read_yaml(path), Path(path).resolve()
    if place in seen:
        chain = " -> ".join(shown(file.name, quote=False) for file in (*seen[seen.index(place) :], place))
        raise InputError(f"{shown(path)}: base: {chain} is a circle; one of them must have no base")
    base = values.pop(BASE, None)
    if base is None:
        return OmegaConf.create(values)
    if not isinstance(base, str) or "${" in base:
        raise InputError(f"{shown(path)}: base = {shown(base)}: must be the name of a recipe, such as ../base.yaml")
    return OmegaConf.merge(inherited(Path(path).parent / base, (*seen, place)), OmegaConf.create(values))
