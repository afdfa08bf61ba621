"""SUV, the denoiser of Open-Sora Plan v1.5."""

from mindsora.models.lazy import lazily

__all__ = ["SUV", "SUVConfig"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.suv.model"))
