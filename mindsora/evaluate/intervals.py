"""95 % bootstrap intervals (Efron 1979, percentile method) over independent groups of items."""

from collections.abc import Callable, Sequence

import numpy as np

from mindsora.evaluate.measures import Row

DRAWS = 1000
LEVEL = 95.0  # per cent


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that are not independent of each other, together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.item.unit, []).append(row)
    return list(groups.values())


def interval(rows: Sequence[Row], of_rows: Callable[[Sequence[Row]], float | None]) -> tuple[float, float] | None:
    """Bounds between which LEVEL of the values lie when groups are drawn with replacement; None for under 2 groups."""
    return _bounds(grouped(rows), lambda drawn: of_rows([row for group in drawn for row in group]))


def paired_interval(
    pairs: Sequence[tuple[Row, Row]], of_rows: Callable[[Sequence[Row]], float | None]
) -> tuple[float, float] | None:
    """The interval of a score's difference, second less first; both rows of a pair are drawn together."""
    groups: dict[str, list[tuple[Row, Row]]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].item.unit, []).append(pair)

    def difference(drawn) -> float | None:
        first, second = zip(*(pair for group in drawn for pair in group))
        a, b = of_rows(first), of_rows(second)
        return None if a is None or b is None else b - a

    return _bounds(list(groups.values()), difference)


def _bounds(groups: Sequence, value: Callable) -> tuple[float, float] | None:
    if len(groups) < 2:
        return None
    rng = np.random.RandomState(0)  # RandomState: NumPy guarantees its stream, so a report never changes
    draws = rng.randint(len(groups), size=(DRAWS, len(groups)))
    values = [found for draw in draws if (found := value([groups[i] for i in draw])) is not None]
    if not values:
        return None
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
