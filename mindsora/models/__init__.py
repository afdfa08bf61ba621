"""The models, each a Cell with its frozen config beside it. Names load on first use."""

import importlib

_HOMES = {
    "WFVAE": "wfvae", "WFVAEConfig": "wfvae",
    "CausalVAE": "causalvae", "CausalVAEConfig": "causalvae",
    "Tiling": "tiling",
    "SUV": "suv", "SUVConfig": "suv",
    "OpenSoraT2V": "opensora", "OpenSoraInpaint": "opensora",
    "OpenSoraConfig": "opensora", "OpenSoraInpaintConfig": "opensora",
    "T5Encoder": "t5", "T5Config": "t5",
    "CLIPTextModel": "clip", "CLIPTextConfig": "clip",
}  # fmt: skip
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mindsora.models.{_HOMES[name]}"), name)
