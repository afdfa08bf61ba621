"""Which models there are, and what a model folder says about itself. (No MindSpore here: this is read first.)

A model folder holds `model_index.json` beside `transformer/ vae/ text_encoder/ text_encoder_2/` (each with upstream's
`config.json` and safetensors), `tokenizer/ tokenizer_2/` and `scheduler/scheduler_config.json`.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from mindsora.config import from_dict, read_json
from mindsora.errors import InputError
from mindsora.shapes import ShapeRules, check_steps
from mindsora.text.templates import template_for

# Component folder -> the class it must hold.
COMPONENTS = {
    "transformer": "SUV",
    "vae": "WFVAE",
    "text_encoder": "T5Encoder",
    "text_encoder_2": "CLIPTextModel",
    "tokenizer": "T5Tokenizer",
    "tokenizer_2": "CLIPTokenizer",
    "scheduler": "FlowMatchScheduler",
}


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says; sizes and steps are defaults of a pipeline call.

    Attributes:
        transformer ... scheduler: library and class of each component.
        template: words put around the prompt, see mindsora.text.templates.
        vae_stride, patch_size: see ShapeRules.
        max_frames, max_height, max_width: largest size the weights are meant for.
        guidance_rescale: share of the rescaled guidance, 0 to 1.
        fps: frames per second of the clips the model was trained on.
        max_text_lengths: tokens the two text encoders take.
    """

    transformer: tuple[str, str]
    vae: tuple[str, str]
    text_encoder: tuple[str, str]
    text_encoder_2: tuple[str, str]
    tokenizer: tuple[str, str]
    tokenizer_2: tuple[str, str]
    scheduler: tuple[str, str]
    template: str
    vae_stride: tuple[int, int, int]
    patch_size: int
    max_frames: int
    max_height: int
    max_width: int
    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float
    fps: float
    max_text_lengths: tuple[int, int]

    def __post_init__(self):
        for component, name in COMPONENTS.items():
            if tuple(getattr(self, component)) != ("mindsora", name):
                raise InputError(f"{component} = {list(getattr(self, component))}: must be ['mindsora', {name!r}]")
        template_for(self.template)
        self.shapes.check(self.num_frames, self.height, self.width)
        check_steps(self.num_inference_steps)

    @property
    def shapes(self) -> ShapeRules:
        return ShapeRules(self.vae_stride, self.patch_size, self.max_frames, self.max_height, self.max_width)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "ModelIndex":
        """The index of a model folder; InputError names the file where something is wrong in it."""
        path = Path(folder) / "model_index.json"
        index = read_json(path)
        try:
            return from_dict(cls, index)
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}") from error


@dataclass(frozen=True)
class Released:
    """A published configuration: what it is, and where its files have to come from."""

    description: str
    parameters: dict[str, int]  # component -> count
    source: str


# Counts from the released shapes: golden/keys and the published text encoders' configurations.
RELEASED = {
    "v1_5": Released(
        description="Open-Sora Plan v1.5, text to video",
        parameters={
            "transformer": 8_589_604_992,  # with the six tensors of tensor-parallel training
            "vae": 227_035_816,
            "text_encoder": 1_223_527_424,
            "text_encoder_2": 694_659_840,
        },
        source="weights are not in the box",
    ),
}

BOX = Path(__file__).parent / "weights"
CONFIGURATIONS = Path(__file__).parent / "released"  # of RELEASED: model folders without weights and tokenisers


def in_the_box() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BOX.glob("*/model_index.json"))


def find(name_or_dir: str | os.PathLike) -> Path:
    """The folder of a model: one of `in_the_box`, or a folder with a `model_index.json`.

    Raises:
        InputError: neither.
    """
    name = os.fspath(name_or_dir)
    if name in in_the_box():
        return BOX / name
    if os.path.isdir(name):
        if not (Path(name) / "model_index.json").is_file():
            raise InputError(f"folder {name!r} holds no model_index.json, so it is no model folder")
        return Path(name)
    if model := RELEASED.get(_key(name)):
        raise InputError(f"model {name!r}: {model.source}; give the folder that holds the converted files")
    raise InputError(f"no model {name!r}: give a folder, or one of {', '.join(in_the_box()) or '(none in the box)'}")


def configuration(name_or_dir: str | os.PathLike) -> Path:
    """As `find`; for a published model without weights in the box, the folder with its configurations alone."""
    key = _key(os.fspath(name_or_dir))
    return CONFIGURATIONS / key if key in RELEASED and not os.path.isdir(name_or_dir) else find(name_or_dir)


def _key(name: str) -> str:
    return name.replace(".", "_")  # v1.5 is v1_5


def describe() -> str:
    """A table of all models, for people."""
    lines = []
    for name in in_the_box():
        index, folder = ModelIndex.read(BOX / name), BOX / name
        megabytes = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        lines += [f"{name}: in the box, {megabytes:.1f} MB of weights", *_sizes(index)]
    for name, model in RELEASED.items():
        count = sum(model.parameters.values())
        parts = ", ".join(f"{part} {n / 1e9:.2f}" for part, n in model.parameters.items())
        index = ModelIndex.read(CONFIGURATIONS / name)
        lines += [
            f"{name}: {model.description}; {model.source}",
            f"    {count / 1e9:.2f} billion parameters ({parts}), {count * 2 / 2**30:.0f} GiB in bf16",
            *_sizes(index),
        ]
    return "\n".join(lines)


def _sizes(index: ModelIndex) -> list[str]:
    return [
        f"    default {index.num_frames} x {index.height} x {index.width}, {index.num_inference_steps} steps, "
        f"guidance {index.guidance_scale:g}, {index.fps:g} fps",
        f"    legal   {index.shapes.describe()}",
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`mindsora models` takes none."""


def run(args: argparse.Namespace) -> None:
    print(describe())
