"""Contact sheets of clips that stay and of those that a step drops."""

from itertools import islice
from pathlib import Path

import numpy as np

from mindsora.curate.clips import frames, uniform
from mindsora.curate.decide import decisions
from mindsora.curate.rules import STEPS, UNREADABLE, UNSCORED
from mindsora.curate.stages import Plan
from mindsora.errors import InputError, shown
from mindsora.media import SHEET_FRAMES, contact_sheet

KEPT = "kept"
REASONS = (KEPT, UNREADABLE, UNSCORED, *(step.name for step in STEPS))
CELL = (90, 160)  # height and width of a frame on a sheet


def sample(plan: Plan, reason: str, count: int = 12) -> tuple[list[str], Path | None]:
    """The first `count` clips with this reason: a line for each, and a contact sheet of those that can be read.

    Args:
        reason: one of REASONS.

    Raises:
        InputError: no such reason, or no clip has it.
    """
    if reason not in REASONS:
        raise InputError(f"--reason {shown(reason)}: must be one of {', '.join(REASONS)}")
    with_it = ((record, decision) for record, decision in decisions(plan) if (decision.step or KEPT) == reason)
    chosen = list(islice(with_it, count))
    if not chosen:
        raise InputError(f"--reason {reason}: no clip has it")
    lines = [line(record, decision.reason) for record, decision in chosen]
    return lines, sheet(plan, reason, [record for record, _ in chosen], lines)


def line(record: dict, reason: str | None) -> str:
    """Name, span and reason of a clip."""
    return f"{shown(record['id'], quote=False)}" + (f": {shown(reason, quote=False)}" if reason else "")


def sheet(plan: Plan, name: str, records: list[dict], labels: list[str]) -> Path | None:
    """Write sheets/NAME.png; None where no clip can be read."""
    clips = [(_cells(plan, record), label) for record, label in zip(records, labels)]
    clips = [(clip, label) for clip, label in clips if clip is not None]
    if not clips:
        return None
    path = Path(plan.output) / "sheets" / f"{name}.png"
    contact_sheet([clip for clip, _ in clips], [label for _, label in clips], path)
    return path


def _cells(plan: Plan, record: dict) -> np.ndarray | None:
    """(SHEET_FRAMES, *CELL, 3) frames of a clip, whole, on grey."""
    if "num_frames" not in record:
        return None
    cells = np.full((SHEET_FRAMES, *CELL, 3), 128, np.uint8)
    try:
        clip = frames(plan.root, record, uniform(record, SHEET_FRAMES), CELL[1])
    except InputError:
        return None
    clip = clip[:, : CELL[0]] if clip.shape[1] > CELL[0] else clip
    top, left = ((whole - part) // 2 for whole, part in zip(CELL, clip.shape[1:3]))
    cells[:, top : top + clip.shape[1], left : left + clip.shape[2]] = clip
    return cells
