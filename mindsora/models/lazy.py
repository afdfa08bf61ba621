"""Names of a package that load their module, and with it MindSpore, on first use."""

import importlib
from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__`. homes: public name -> the module that defines it.

    The modules are absolute: a second import of a package through the links at the root finds the same classes.
    """

    def getter(name: str):
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return getter
