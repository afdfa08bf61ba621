"""The available models and the index of a model folder. (No MindSpore here: this module is imported first.)

A model folder holds `model_index.json` beside `transformer/ vae/ text_encoder/ text_encoder_2/` (each with upstream's
`config.json` and safetensors), `tokenizer/ tokenizer_2/` and `scheduler/scheduler_config.json`. Models of v1.3 have
neither `text_encoder_2/` nor `tokenizer_2/`.
"""

import os
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from mindsora.config import from_dict, read_json
from mindsora.errors import InputError, shown
from mindsora.files import cache_folder
from mindsora.models import registry
from mindsora.models.spec import CELLS
from mindsora.ranges import Range, Stride, check_fields
from mindsora.released import RELEASED, Released, released
from mindsora.shapes import PNDM_STEPS, ShapeRules, check_steps
from mindsora.text.templates import template_for

Pixels = Annotated[int, Range(1, 2**14)]

COMPONENTS = (*CELLS, "tokenizer", "tokenizer_2", "scheduler")  # folders of a model folder
WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


@dataclass(frozen=True)
class ModelIndex:
    """The content of `model_index.json`; sizes and steps are defaults of a pipeline call.

    Attributes:
        transformer ... scheduler: library and class of each component; the denoiser's ModelSpec lists the legal ones.
        template: name of the prompt template, see mindsora.text.templates.
        vae_stride, patch_size: see ShapeRules.
        max_frames, max_height, max_width, max_pixels: largest size the weights are meant for; see ShapeRules.
        image_pixels, image_stride: of a clip whose size follows a picture, the pixels of a frame at most and what both
            sides are multiples of; None: as of all clips.
        guidance_rescale: share of the rescaled guidance, 0 to 1.
        fps: frames per second of the clips the model was trained on.
        max_text_lengths: tokens that each text encoder takes.
        even_steps: whether the number of steps must be even; from the scheduler's configuration, not from this file.
        uses_pndm: whether the solver is PNDM; likewise.
    """

    transformer: tuple[str, str]
    vae: tuple[str, str]
    text_encoder: tuple[str, str]
    tokenizer: tuple[str, str]
    scheduler: tuple[str, str]
    template: str
    vae_stride: tuple[Stride, Stride, Stride]
    patch_size: Stride
    max_frames: Annotated[int, Range(1, 2**16)]
    max_height: Pixels
    max_width: Pixels
    num_frames: Annotated[int, Range(1, 2**16)]
    height: Pixels
    width: Pixels
    num_inference_steps: Annotated[int, Range(1, 2**16)]
    guidance_scale: Annotated[float, Range(0, 1000)]
    guidance_rescale: Annotated[float, Range(0, 1)]
    fps: Annotated[float, Range(0.1, 1000)]
    max_text_lengths: tuple[Annotated[int, Range(3, 8192)], ...]
    max_pixels: Annotated[int, Range(256, 2**24)] | None = None
    image_pixels: Annotated[int, Range(256, 2**24)] | None = None
    image_stride: Annotated[int, Range(8, 512)] | None = None
    text_encoder_2: tuple[str, str] | None = None
    tokenizer_2: tuple[str, str] | None = None
    even_steps: bool = field(default=False, init=False)
    uses_pndm: bool = field(default=False, init=False)

    def __post_init__(self):
        check_fields(self)
        companions = {spec.name: spec.companions for spec in registry.specs("transformer")}
        legal = {"transformer": tuple(companions), **companions.get(self.transformer[-1], {})}
        for component in COMPONENTS:
            value, names = getattr(self, component), legal.get(component)
            if names is None and value is not None:
                raise InputError(
                    f"{component} = {shown(list(value), quote=False)}: a model with {self.transformer[1]} has none; "
                    "leave it out"
                )
            if names and (value is None or tuple(value) not in [("mindsora", name) for name in names]):
                choices = " or ".join(f"['mindsora', {name!r}]" for name in names)
                asked = shown(value and list(value), quote=False)
                raise InputError(f"{component} = {asked}: must be {choices}")
        tokenizers = 1 if self.tokenizer_2 is None else 2
        if len(self.max_text_lengths) != tokenizers:
            raise InputError(f"max_text_lengths = {self.max_text_lengths}: must be {tokenizers}, one a text encoder")
        template_for(self.template)
        self.shapes.check(self.num_frames, self.height, self.width)
        check_steps(self.num_inference_steps)

    @property
    def components(self) -> dict[str, str]:
        """Component folder -> class, for the components that this model has."""
        return {name: getattr(self, name)[1] for name in COMPONENTS if getattr(self, name) is not None}

    @property
    def takes_frames(self) -> bool:
        """Whether the model takes frames (image to video, transition, continuation) besides text."""
        return registry.spec(self.transformer[1]).takes_frames

    def check_takes_frames(self, given: str) -> None:
        """Raise InputError, beginning with `given`, if the model takes text alone; it names models that take frames."""
        if not self.takes_frames:
            others = " or ".join(spec.name for spec in registry.specs("transformer") if spec.takes_frames)
            raise InputError(
                f"{given}, but {self.transformer[1]} takes text alone: use a model with {others}, "
                f"such as {' or '.join(taking_frames())}"
            )

    def check_steps(self, num_inference_steps: int, solver: str | None = None) -> None:
        """Raise InputError for a number of steps that the scheduler, or another solver in its place, cannot take."""
        check_steps(num_inference_steps, self.even_steps, PNDM_STEPS if self.uses_pndm and solver is None else 1)

    def evaluations(self, num_inference_steps: int) -> int:
        """How often the denoiser runs in so many steps: PNDM's first three take four each, every other step one."""
        return num_inference_steps + (9 if self.uses_pndm else 0)

    @property
    def what(self) -> str:
        """What the model generates, in the terms of the table of releases."""
        if self.max_frames == 1:
            return "text to image"
        return "frames to video" if self.takes_frames else "text to video"

    @property
    def pipeline(self) -> str:
        """Name, in `mindsora`, of the class that runs this model."""
        return "ImageToVideoPipeline" if self.takes_frames else "TextToVideoPipeline"

    def size_from(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a clip that goes on from a picture of this size. InputError: too small a picture."""
        return self.shapes.shrunk(height, width, self.image_pixels, self.image_stride)

    @property
    def shapes(self) -> ShapeRules:
        limits = self.max_frames, self.max_height, self.max_width, self.max_pixels
        return ShapeRules(self.vae_stride, self.patch_size, *limits)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "ModelIndex":
        """Read the index of a model folder. Raises InputError with the file's name if its content is wrong."""
        path, scheduler = Path(folder) / "model_index.json", Path(folder) / "scheduler" / "scheduler_config.json"
        content = read_json(path)
        try:
            index = from_dict(cls, content)
        except InputError as error:
            raise InputError(f"{shown(path)}: {error}") from error
        return index.scheduled(read_json(scheduler)) if scheduler.is_file() else index

    def scheduled(self, settings: dict) -> "ModelIndex":
        """This index with the rules for the number of steps that follow from the content of scheduler_config.json."""
        index = replace(self)
        pndm = settings.get("solver") == "pndm" or settings.get("_class_name") == "PNDMScheduler"
        object.__setattr__(index, "even_steps", bool(settings.get("use_linear_quadratic_schedule")))
        object.__setattr__(index, "uses_pndm", pndm)
        return index

    def content(self) -> dict:
        """The content of `model_index.json` that gives this index."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        return {"_class_name": self.pipeline} | {name: value for name, value in values.items() if value is not None}


BOX = Path(__file__).parent / "weights"
CONFIGURATIONS = Path(__file__).parent / "released"  # of published models, without weights and tokenisers


def in_the_box() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in BOX.glob("*/model_index.json"))


def autoencoders_in_the_box() -> list[str]:
    """Names of the autoencoders in the package that belong to no model."""
    return sorted(path.parent.name for path in BOX.glob("*/config.json"))


def taking_frames() -> list[str]:
    """Names of the models that take frames: those in the box, then the published ones."""
    folders = {name: BOX / name for name in in_the_box()}
    folders |= {row.name: CONFIGURATIONS / row.configuration for row in RELEASED if row.is_model}
    return [name for name, folder in folders.items() if ModelIndex.read(folder).takes_frames]


def list_models(filter: str = "*", pretrained: bool = False) -> list[str]:
    """Names that `create_model` takes: the models in the box, then those of the table of releases that run here.

    Args:
        filter: a pattern such as "*i2v*" or "v1.3*"; letters of any case match.
        pretrained: only those whose weights are here.
    """
    published = [row.name for row in RELEASED if row.cells and (not pretrained or _is_here(row))]
    return [name for name in [*in_the_box(), *published] if fnmatch(name.lower(), filter.lower())]


def _is_here(row: Released) -> bool:
    return (pulled(row) / "model_index.json").is_file()


def kind(name: str, component: str) -> str:
    """Class of a component of one of `list_models`."""
    row = released(name)
    return row.cells[component] if row else ModelIndex.read(find(name)).components[component]


def component(name: str, part: str | None, pretrained: bool = False) -> tuple[Path, str]:
    """The folder with the config.json of a component of one of `list_models`, and the component's name.

    Args:
        part: one of CELLS; None: the denoiser, or the only one.
        pretrained: the folder has the weights too.

    Raises:
        InputError: no such model or component, or its weights are not here.
    """
    row = released(name)
    if row is None and name.lower() not in in_the_box():
        nearest = get_close_matches(name.lower(), list_models(), n=1)
        raise InputError(f"no model {shown(name)}: {f'did you mean {nearest[0]}?' if nearest else 'see list_models()'}")
    cells = row.cells if row else [key for key in ModelIndex.read(BOX / name.lower()).components if key in CELLS]
    if row and not cells:
        raise InputError(f"model {shown(name)}: {_why_no_model(row)}")
    part = part or ("transformer" if "transformer" in cells else "vae")
    if part not in cells:
        raise InputError(f"component = {shown(part)} of {shown(name)}: must be one of {', '.join(cells)}")
    if pretrained or row is None:
        return find(name) / part, part
    folder = CONFIGURATIONS / row.configuration
    return (folder / part if row.is_model else folder), part


def pulled(row: Released) -> Path:
    """The folder that `mindsora pull` and `mindsora assemble` make of a published model if no other is named."""
    return cache_folder() / "models" / row.name


def find(name_or_dir: str | os.PathLike) -> Path:
    """The folder of a model: one of `in_the_box`, a published one that was pulled, or a folder with a `model_index.json`.

    Raises:
        InputError: none of them.
    """
    name = os.fspath(name_or_dir)
    if name.lower() in in_the_box():
        return BOX / name.lower()
    if os.path.isdir(name):
        if not (Path(name) / "model_index.json").is_file():
            raise InputError(f"folder {shown(name)} holds no model_index.json, so it is no model folder")
        return Path(name)
    if row := released(name):
        if _is_here(row):
            return pulled(row)
        if row.is_model:
            raise InputError(
                f"model {shown(name)}: weights are not in the box; `mindsora pull {row.name}` fetches them, `mindsora "
                f"assemble {row.name} --from DIR` takes copied files; or give the folder with the converted files (see "
                f"{row.recipe})"
            )
        raise InputError(f"model {shown(name)}: {_why_no_model(row)}")
    if published := [row.name for row in RELEASED if row.parts and name in (row.hub_name, row.parts[0].repository)]:
        raise InputError(
            f"{shown(name)} is a repository: `mindsora pull NAME`, then NAME, one of {', '.join(published)}"
        )
    raise InputError(
        f"no model {shown(name)}: give a folder, or one of {', '.join(in_the_box()) or '(none in the box)'}"
    )


def configuration(name_or_dir: str | os.PathLike) -> Path:
    """Like `find`, but for a published model without weights in the box return the folder of its configurations."""
    row = released(os.fspath(name_or_dir))
    if row and row.is_model and not os.path.isdir(name_or_dir):
        return CONFIGURATIONS / row.configuration
    return find(name_or_dir)


def _why_no_model(row: Released) -> str:
    if row.cells:
        return f"of {row.published} the autoencoder alone runs here, as mindsora.models.{row.cells['vae']}"
    return f"{row.published} does not run here; missing: {row.missing}"
