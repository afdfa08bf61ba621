"""MindSora: the Open-Sora Plan video models on MindSpore. Public names load on first use; this import costs nothing."""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "TextToVideoPipeline": "mindsora.pipelines.text_to_video",
    "ImageToVideoPipeline": "mindsora.pipelines.image_to_video",
    "AutoModel": "mindsora.pipelines.single",
    "create_model": "mindsora.pipelines.single",
    "list_models": "mindsora.zoo",
    "export_to_video": "mindsora.media",
    "export_to_gif": "mindsora.media",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mindsora' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOMES])
