"""Convert checkpoints between upstream's names and formats and the Cells'. See README.md beside this file."""

import importlib

# Names load on first use, because reading a checkpoint needs no MindSpore.
_EXPORTS = {
    "load": "cells",
    "save": "cells",
    "shapes": "cells",
    "upstream_state": "cells",
    "convert": "conversion",
    "Report": "conversion",
    "open_checkpoint": "checkpoint",
    "Checkpoint": "checkpoint",
    "Entry": "entry",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"mindsora.ckpt_convert.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
