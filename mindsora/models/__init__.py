"""The models, each a Cell with its frozen config beside it. Names load on first use."""

import importlib

_HOMES = {
    "WFVAE": "wfvae", "WFVAEConfig": "wfvae",
    "SUV": "suv", "SUVConfig": "suv",
    "T5Encoder": "t5", "T5Config": "t5",
    "CLIPTextModel": "clip", "CLIPTextConfig": "clip",
}  # fmt: skip
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mindsora.models.{_HOMES[name]}"), name)
