"""The denoisers of Open-Sora Plan v1.3: text to video, and inpainting over frames."""

from mindsora.models.lazy import lazily

__all__ = ["OpenSoraT2V", "OpenSoraInpaint", "OpenSoraConfig", "OpenSoraInpaintConfig"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.opensora.model"))
