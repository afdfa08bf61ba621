"""CLIP's text encoder with projection."""

from mindsora.models.lazy import lazily

__all__ = ["CLIPTextConfig", "CLIPTextModel"]
__getattr__ = lazily(__name__, dict.fromkeys(__all__, "mindsora.models.clip.model"))
