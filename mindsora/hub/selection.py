"""Which files of a repository, or of a copy of one, a part of a model needs."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from mindsora.errors import InputError, shown
from mindsora.released import Part

_SHARD = r"(-\d{5}-of-\d{5})?"
# Weights under the names that diffusers and transformers give them. The first kind that is there is taken; safetensors
# first, because nothing in them is executed or unpickled.
_WEIGHTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(diffusion_pytorch_)?model{_SHARD}\.safetensors",
        rf"(diffusion_)?pytorch_model{_SHARD}\.bin",
        r"[^/]*\.(ckpt|pt|pth)",
    )
)


def needed(part: Part, names: Iterable[str], where: str) -> list[str]:
    """The files that make a part, as paths in its repository.

    Args:
        names: all files of the repository, or of its copy.
        where: the place, for messages.

    Raises:
        InputError: one of them is not there.
    """
    names = set(names)
    if part.files or PurePosixPath(part.source).suffix:
        wanted = [_inside(part, name) for name in part.files] or [part.source]
        if missing := [name for name in wanted if name not in names]:
            raise InputError(f"{where} has no {', '.join(map(shown, missing))}, which {part.component} is made of")
        return wanted
    config = _inside(part, "config.json")
    if config not in names:
        raise InputError(f"{where} has no {shown(config)}, which {part.component} is made of")
    start = len(_inside(part, ""))
    local = sorted(name[start:] for name in names if name.startswith(_inside(part, "")) and "/" not in name[start:])
    for pattern in _WEIGHTS:
        if weights := [name for name in local if pattern.fullmatch(name)]:
            whole = [name for name in weights if "-of-" not in name]
            index = [name for name in local if name.endswith(".index.json") and pattern.fullmatch(name[:-11])]
            chosen = whole[:1] or [*index, *weights]
            return [config, *(_inside(part, name) for name in chosen)]
    raise InputError(f"{where} has no weights of {part.component} in {shown(_inside(part, '') or '.')}")


def _inside(part: Part, name: str) -> str:
    return f"{part.source}/{name}" if part.source else name
