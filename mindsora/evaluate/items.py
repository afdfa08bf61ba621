"""What an evaluation asks for: a committed list of items, each with prompts, a seed and the facts its measures need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mindsora.config import from_dict, read_json
from mindsora.errors import InputError, shown

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")


@dataclass(frozen=True)
class Item:
    """One clip to make and to judge, or one sequence of shots.

    Attributes:
        name: of its file, without the suffix; several shots are NAME-0, NAME-1 and so on.
        prompts: one for each shot.
        seed: of every shot.
        facts: what measures compare the clip with.
        group: items with one group are not independent (one prompt with several seeds): the bootstrap draws groups. ""
            stands for the name.
    """

    name: str
    prompts: tuple[str, ...]
    seed: int = 0
    facts: dict = field(default_factory=dict)
    group: str = ""

    def __post_init__(self):
        if not self.name or Path(self.name).name != self.name or not self.name.isprintable():
            raise InputError(f"item name {shown(self.name)}: must be a file name without a folder")
        if not self.prompts:
            raise InputError(f"item {shown(self.name)} has no prompt; give one for each shot")

    @property
    def stems(self) -> tuple[str, ...]:
        """File names of its shots, without the suffix."""
        shots = range(len(self.prompts))
        return (self.name,) if len(shots) == 1 else tuple(f"{self.name}-{shot}" for shot in shots)

    @property
    def unit(self) -> str:
        """What the bootstrap draws."""
        return self.group or self.name


def read_items(path: str | os.PathLike) -> tuple[Item, ...]:
    """The items of a file `{"provenance": "...", "items": [{"name": ..., "prompts": [...], ...}]}`.

    Raises:
        InputError: no such file, no provenance, no item, an item of another form, or two of one name.
    """
    content = read_json(path)
    entries = content.get("items")
    if not isinstance(content.get("provenance"), str) or not isinstance(entries, list) or not entries:
        raise InputError(f"{shown(path)} needs `provenance`, a text, and `items`, a list of at least one")
    items = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{shown(path)}: item {number} must be an object with name and prompts")
        facts = entry.get("facts", {})  # as it stands: `from_dict` makes tuples of lists
        items.append(from_dict(Item, entry | {"facts": facts}))
    return distinct(items, path)


def distinct(items: Sequence[Item], source: str | os.PathLike) -> tuple[Item, ...]:
    """The items, of which no two share a file. InputError names two that do."""
    seen: set[str] = set()
    for item in items:
        for stem in item.stems:
            if stem in seen:
                raise InputError(f"{shown(source)}: two items have the file name {shown(stem)}; names must differ")
            seen.add(stem)
    return tuple(items)


def videos_of(folder: str | os.PathLike) -> dict[str, Path]:
    """File name without suffix -> path, of every video in a folder, in order of their names.

    Raises:
        InputError: no folder, no video in it, or two of one name.
    """
    if not os.path.isdir(folder):
        raise InputError(f"folder of videos {shown(folder)} does not exist")
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in VIDEOS and path.is_file())
    if not paths:
        raise InputError(f"folder {shown(folder)} holds no video ({', '.join(VIDEOS)})")
    by_stem = {path.stem: path for path in paths}
    if len(by_stem) < len(paths):
        twice = next(path for path in paths if by_stem[path.stem] != path)
        raise InputError(f"folder {shown(folder)} holds {shown(twice.stem)} with two suffixes; keep one")
    return by_stem
