"""MindSpeed-MM (Megatron) checkpoint folders: one torch file per tensor- and pipeline-parallel rank.

latest_checkpointed_iteration.txt           "release", or a number
release/ or iter_0001000/
    mp_rank_TT/model_optim_rng.pt           tensor-parallel rank TT
    mp_rank_TT_PPP/model_optim_rng.pt       and pipeline-parallel rank PPP
"""

import re
from itertools import islice
from pathlib import Path

from mindsora.errors import InputError, shown

TRACKER = "latest_checkpointed_iteration.txt"
FILE = "model_optim_rng.pt"
_RANK = re.compile(r"mp_rank_([0-9]{2,3})(?:_([0-9]{3}))?")


def looks_like(folder: Path) -> bool:
    return (folder / TRACKER).is_file() or any(folder.glob("mp_rank_*"))


def rank_files(folder: Path) -> list[list[Path]]:
    """The files of a checkpoint: one list per pipeline-parallel rank, in tensor-parallel order.

    Raises:
        InputError: no such iteration, or a rank is missing.
    """
    if (tracker := folder / TRACKER).is_file():
        with open(tracker, "rb") as file:
            word = file.read(100).decode("ascii", "replace").strip()
        if word != "release" and not re.fullmatch("[0-9]{1,9}", word):
            raise InputError(
                f"{shown(tracker)} says {shown(word, 40)}; it must say 'release' or a number of iterations"
            )
        folder = folder / (word if word == "release" else f"iter_{int(word):07d}")
    ranks = {}
    for path in sorted(folder.glob("mp_rank_*")):
        if match := _RANK.fullmatch(path.name):
            rank = int(match[2] or 0), int(match[1])
            if rank in ranks:
                raise InputError(
                    f"{shown(folder)}: {ranks[rank].parent.name} and {path.name} are the same rank; remove one"
                )
            ranks[rank] = path / FILE
    if not ranks:
        raise InputError(f"{shown(folder)} holds no mp_rank_* folder")
    pipeline, tensor = (1 + max(rank[i] for rank in ranks) for i in (0, 1))
    missing = (
        f"mp_rank_{t:02d}" + (f"_{p:03d}" if pipeline > 1 else "")
        for p in range(pipeline)
        for t in range(tensor)
        if (p, t) not in ranks or not ranks[p, t].is_file()
    )
    if first := list(islice(missing, 8)):
        raise InputError(f"{shown(folder)}: rank files are missing (TP {tensor}, PP {pipeline}): {', '.join(first)}")
    return [[ranks[p, t] for t in range(tensor)] for p in range(pipeline)]
