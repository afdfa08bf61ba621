"""The models: a line for each folder. A model's ModelSpec answers all other questions about it.

registry.register("package.of.a.model")    # a folder outside this one, with spec.py in it
"""

import importlib
from collections.abc import Collection

from mindsora.errors import InputError
from mindsora.models.spec import ModelSpec

_PACKAGES = (
    "mindsora.models.suv",
    "mindsora.models.opensora",
    "mindsora.models.wfvae",
    "mindsora.models.causalvae",
    "mindsora.models.t5",
    "mindsora.models.clip",
    "mindsora.models.llama",
)
_SPECS: dict[str, ModelSpec] = {}


def register(package: str) -> None:
    """Register the models of a package: those in SPECS of its `spec.py`.

    Raises:
        InputError: another package has a model of that name.
    """
    for spec in importlib.import_module(f"{package}.spec").SPECS:
        if (known := _SPECS.setdefault(spec.name, spec)).package != package:
            raise InputError(f"model {spec.name!r} of {package} is in {known.package} already; give it another name")


def specs(component: str | None = None) -> tuple[ModelSpec, ...]:
    """All models, or those of a given component: "transformer", "vae", "text_encoder", "text_encoder_2" or "refiner"."""
    return tuple(spec for spec in _SPECS.values() if component in (None, spec.component))


def names(component: str | None = None) -> tuple[str, ...]:
    """Class names of `specs`."""
    return tuple(spec.name for spec in specs(component))


def spec(name: str) -> ModelSpec:
    """The model whose Cell has this class name. InputError: there is none."""
    if name not in _SPECS:
        raise InputError(f"no model {name!r}: known are {', '.join(_SPECS)}")
    return _SPECS[name]


def spec_of(cell) -> ModelSpec:
    """The model that a Cell is."""
    return spec(type(cell).__name__)


def named_upstream(class_name: str | None) -> ModelSpec | None:
    """The model that upstream's config.json calls by this name, or None."""
    return next((spec for spec in specs() if class_name in spec.upstream), None)


def recognised(tensors: Collection[str]) -> ModelSpec | None:
    """The model whose signature is among these upstream names of tensors, or None."""
    return next((spec for spec in by_signature() if spec.names.recognises(tensors)), None)


def by_signature() -> list[ModelSpec]:
    """All models in the order in which to try signatures: a longer one may contain all names of a shorter one."""
    return sorted(specs(), key=lambda spec: -len(spec.names.signature))


def mindspeed() -> list[ModelSpec]:
    """The models that were trained with MindSpeed-MM, whose checkpoints have a file for each rank."""
    return [spec for spec in specs() if spec.is_sharded and spec.sharding.stages]


def trained_in_shards(tensors: Collection[str]) -> ModelSpec:
    """The sharded model with the largest part of its signature among these names of tensors."""
    return max(mindspeed(), key=lambda spec: len(set(spec.names.signature) & set(tensors)))


for _package in _PACKAGES:
    register(_package)
