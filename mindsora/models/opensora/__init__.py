"""The denoisers of Open-Sora Plan v1.3 and v1.2: text to video, and inpainting over frames."""

from mindsora.models.lazy import lazily

__all__ = ["OpenSoraConfig", "OpenSoraInpaint", "OpenSoraInpaintConfig", "OpenSoraInpaintV1_2", "OpenSoraT2V"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.opensora.model"))
