"""Frozen config dataclasses from JSON objects: an unknown key is an error that names the nearest known one."""

import difflib
import io
import json
import os
from collections.abc import Collection
from dataclasses import MISSING, fields

from mindsora.errors import InputError, shown
from mindsora.ranges import check_field

_MAX_DEPTH = 100  # of nested values; the reader recurses once per level
_MAX_YAML = 2**18  # bytes; our recipes have a few thousand
_MAX_JSON = 16 * 2**20  # bytes; the index of a sharded checkpoint of the released size has 0.2 MB


def from_dict(cls: type, config: dict, ignored: Collection[str] = ()):
    """An instance of the dataclass `cls`; lists become tuples.

    Args:
        config: field name to value. Keys that begin with an underscore (`_class_name`, ...) are notes.
        ignored: further keys that may be present and have no meaning here.

    Raises:
        InputError: an unknown key, a field without default that is missing, a value of another type or out of its range.
    """
    known = {f.name for f in fields(cls) if f.init}
    values = {k: v for k, v in config.items() if not k.startswith("_") and k not in ignored}
    for key in values.keys() - known:
        nearest = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(sorted(known))}"
        raise InputError(f"unknown key {shown(key)} for {cls.__name__}: {hint}")
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise InputError(f"{cls.__name__} lacks {', '.join(missing)}")
    values = {k: _tupled(v) for k, v in values.items()}
    for key, value in values.items():
        check_field(cls, key, value)
    return cls(**values)


def read_json(path: str | os.PathLike, max_bytes: int = _MAX_JSON) -> dict:
    """The JSON object in a file of at most `max_bytes`; InputError if there is none."""
    if not os.path.isfile(path):  # false also for names that no file can have
        raise InputError(f"{shown(path)} does not exist")
    try:
        with open(path, "rb") as file:
            text = file.read(max_bytes + 1)
        if len(text) > max_bytes:
            raise InputError(f"{shown(path)} is longer than {max_bytes} bytes")
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)} is not JSON: {shown(error, quote=False)}") from error
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {error.strerror}") from error
    if not isinstance(value, dict):
        raise InputError(f"{shown(path)} must hold a JSON object")
    return value


def read_yaml(path: str | os.PathLike) -> dict:
    """The mapping in a YAML file, unresolved: `${...}` is text.

    Raises:
        InputError: no such file, another kind of content, more than _MAX_YAML bytes, or an alias, with which a short
            file can stand for endless lists.
    """
    import yaml
    from omegaconf import OmegaConf  # its YAML loader refuses duplicate keys
    from omegaconf.errors import OmegaConfBaseException

    if not os.path.isfile(path):  # a pipe or a device may never end
        raise InputError(f"{shown(path)} does not exist, or is not a file")
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_YAML + 1)
        text = content.decode("utf-8-sig")
        if len(content) > _MAX_YAML or any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError(f"{shown(path)} is longer than {_MAX_YAML} bytes, or has an alias (*name): write it out")
        value = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except OSError as error:
        reason = error.strerror or "it holds a single value"  # OmegaConf reports a single value this way
        raise InputError(f"cannot read {shown(path)}: {reason}") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{shown(path)} is not YAML: {shown(' '.join(str(error).split()), quote=False)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{shown(path)} must hold `key: value` lines")
    return value


def parse_json(text: bytes | bytearray):
    """Parse UTF-8 JSON strictly by the standard.

    Raises:
        ValueError: also for a duplicate key, for NaN, Infinity or -0, and for values nested _MAX_DEPTH deep.
    """
    value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer)
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")


def _inside(value) -> Collection:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _integer(digits: str) -> int:
    return _refuse(digits) if digits == "-0" else int(digits)


def _unique(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON value")


def _tupled(value):
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
