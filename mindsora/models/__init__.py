"""The models, each in a folder of its own. Names load on first use."""

from mindsora.models.lazy import lazily

_HOMES = {
    "SUV": "suv", "SUVConfig": "suv",
    "OpenSoraT2V": "opensora", "OpenSoraInpaint": "opensora",
    "OpenSoraConfig": "opensora", "OpenSoraInpaintConfig": "opensora",
    "WFVAE": "wfvae", "WFVAEConfig": "wfvae",
    "CausalVAE": "causalvae", "CausalVAEConfig": "causalvae",
    "T5Encoder": "t5", "T5Config": "t5",
    "CLIPTextModel": "clip", "CLIPTextConfig": "clip",
    "Tiling": "tiling",
}  # fmt: skip
__all__ = list(_HOMES)
__getattr__ = lazily(__name__, {name: f"mindsora.models.{home}" for name, home in _HOMES.items()})
