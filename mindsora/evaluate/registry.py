"""The evaluations by name; each is a module, imported when it is asked for."""

import importlib

from mindsora.errors import InputError
from mindsora.evaluate.evaluation import Evaluation

PROMPTED = ("obedience", "inpainting", "orange")  # with results.json and a contact sheet, see `prompted`
MODULES: dict[str, str] = {  # name -> module of mindsora.evaluate with EVALUATION
    "autoencoder": "autoencoder",
    "continued_shots": "continued_shots",
    "cost": "cost",
    "editing": "editing",
    "image_control": "image_control",
    "long_prompts": "long_prompts",
    "mini": "mini",
    "product": "product",
    "safety": "safety",
    "shots": "shots",
    "vbench": "vbench",
    "watermark": "watermark",
}


def find(name: str) -> Evaluation:
    """The evaluation of a name in MODULES."""
    if name not in MODULES:
        raise InputError(f"no evaluation {name!r}; there are {', '.join(MODULES)}")
    return importlib.import_module(f"mindsora.evaluate.{MODULES[name]}").EVALUATION
