"""The models, each in a folder of its own; `registry` lists them. Names load on first use."""

from mindsora.models import registry
from mindsora.models.lazy import lazily

_HOMES = {name: f"{spec.package}.model" for spec in registry.specs() for name in (spec.name, spec.config_name)}
_HOMES["Tiling"] = "mindsora.shapes"
__all__ = list(_HOMES)
__getattr__ = lazily(__name__, _HOMES)
