"""Which values a field of a configuration may have: those of its type, within the range that its annotation names.

`num_layers: Annotated[int, Range(1, 512)]`, or `num_layers: Layers` with the ranges below. They are wider than any
released model. A damaged file must not ask for a network that no machine holds, or that takes hours to lay out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mindsora.errors import InputError, shown


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included."""

    low: float
    high: float


Layers = Annotated[int, Range(1, 512)]
Heads = Annotated[int, Range(1, 512)]
HeadWidth = Annotated[int, Range(1, 1024)]
Width = Annotated[int, Range(1, 65_536)]  # features or channels; the widest is the feed-forward layer of T5-11B
Rows = Annotated[int, Range(1, 2**24)]  # of an embedding table
Stride = Annotated[int, Range(1, 64)]
Epsilon = Annotated[float, Range(0, 1)]
Scale = Annotated[float, Range(1e-6, 1e6)]


def check_fields(config: Any) -> None:
    """Raise InputError for a dataclass of which a field has a value of another type, or one out of its range."""
    for field in fields(config):
        check_field(type(config), field.name, getattr(config, field.name))


def check_field(cls: type, name: str, value: Any) -> None:
    """Raise InputError for a value that the field `name` of the dataclass `cls` cannot have; lists stand for tuples."""
    hint = _hints(cls)[name]
    if not fits(value, hint):
        raise InputError(f"{cls.__name__}: {name} = {_said(value)} must be of type {kind_of(hint)}")
    for number, legal in _numbers(value, hint):
        if not legal.low <= number <= legal.high:
            nearest = (
                "" if math.isnan(number) else f"; nearest legal: {_digits(min(max(number, legal.low), legal.high))}"
            )
            rule = f"must be from {_digits(legal.low)} to {_digits(legal.high)}"
            raise InputError(f"{cls.__name__}: {name} = {_said(number)}: {rule}{nearest}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value, and what it holds, is of the type of an annotation; lists stand for tuples."""
    if _is_union(hint):
        return any(fits(value, one) for one in get_args(hint))
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        return fits(value, inner[0])
    if kind in (int, float):  # True and False are ints to Python
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is dict and inner:
        return isinstance(value, dict) and all(fits(pair, tuple[inner]) for pair in value.items())
    if kind is not tuple:
        return isinstance(value, kind) if isinstance(kind, type) else True
    if not isinstance(value, (tuple, list)):
        return False
    kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
    return len(kinds) == len(value) and all(map(fits, value, kinds))


def _numbers(value: Any, hint: Any) -> Iterator[tuple[float, Range]]:
    """The numbers of a value that `fits`, each with its range, where the annotation has one."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        yield value, inner[1]
    elif _is_union(hint):
        yield from _numbers(value, next(one for one in inner if fits(value, one)))
    elif kind is tuple:
        for item, one in zip(value, inner[:1] * len(value) if inner[1:] == (...,) else inner):
            yield from _numbers(item, one)


def kind_of(hint: Any) -> str:
    """A type as a JSON file has it."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        return kind_of(inner[0])
    if _is_union(hint):
        return " or ".join(map(kind_of, inner))
    if kind is tuple:
        return f"list[{', '.join('...' if one is ... else kind_of(one) for one in inner)}]"
    return "null" if kind is NoneType else getattr(kind, "__name__", str(kind))


def _digits(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def _said(value: Any) -> str:
    return shown(repr(value), quote=False)
