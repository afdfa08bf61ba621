"""The start and the end of a process that msrun started, and small facts that ranks tell each other."""

import time

import numpy as np
from mindspore import communication

from mindsora.parallel.collectives import Group, all_rows

_LAST_MESSAGE = 1.0  # seconds; a message that is under way fails if its receiver ends


def serve() -> None:
    """What msrun's scheduler does: introduce the workers to each other, and wait for their end."""
    communication.init()


def leave(world: Group) -> None:
    """Wait for the other ranks at the end: a rank that ends first would break the last collective of the others."""
    if world.size > 1:
        highest(0, world)
        time.sleep(_LAST_MESSAGE)


def highest(number: int, world: Group) -> int:
    """The highest of the ranks' numbers, each from 0 to 255."""
    return int(all_rows(np.array([number], np.uint8), world).max())


def disagreeing(value: np.ndarray, world: Group) -> list[int]:
    """Ranks whose array differs from the first rank's. Shapes and dtypes are equal."""
    rows = all_rows(value, world)
    return [world.ranks[place] for place, row in enumerate(rows) if row.tobytes() != rows[0].tobytes()]
