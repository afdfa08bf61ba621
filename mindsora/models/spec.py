"""What the rest of the package needs to know about a model. No MindSpore here: Cells and counts load on first use."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from mindsora.models.naming import NameTable
from mindsora.models.sharding import Sharding

CELLS = ("transformer", "vae", "text_encoder", "text_encoder_2")  # the components of a model folder that are Cells


@dataclass(frozen=True)
class ModelSpec:
    """A model and its package: `model.py` has the Cell and its configuration, `names.py` the name table, `cost.py` what
    it takes (of CELLS), `sharding.py` how ranks share it.

    Attributes:
        package: the package's name, such as "mindsora.models.suv".
        name: class of the Cell; the name of the model in model_index.json and `mindsora convert --model`.
        config_name: class of its configuration.
        component: which of CELLS it is; or `refiner`, which no model folder has.
        upstream: what upstream's config.json calls the class (`_class_name`).
        operators: those of mindsora.kernels that it calls.
        companions: of a denoiser, the classes that each other component may be, the default first; a component that is
            not named is not in the model folder.
        takes_frames: of a denoiser, whether it can take given frames, or takes only text.
        given_frames: of a denoiser that takes frames, the release whose format the given frames have; see
            `mindsora.data.frame_masks.RELEASES`.
        joint_text: of a denoiser, whether text attends with the video and goes through the feed-forward layers. Such a
            Cell has the method `segments`, see SUV.
        float32_angles: of a denoiser, whether its rotary tables stay float32 in half precision.
        decodes_together: of an autoencoder, whether its decoder takes all chunks in one call, or one after the other.
        streamed_layers: attributes with the lists of layers that offload leaves in the file; none: offload keeps the model.
        streamed_table: attribute with the table of tokens, of which offload reads the rows that a prompt needs.
        shapes_decide: whether `from_upstream` also takes the checkpoint's shapes, which decide over the config.json.
        nested_config: key of upstream's config.json under which the model's own configuration may stand.
        table_name: attribute of `names.py` that holds the name table.
        is_sharded: whether there is a `sharding.py`, with SHARDING; then the Cell takes `shards`.
    """

    package: str
    name: str
    config_name: str
    component: str
    upstream: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    takes_frames: bool = False
    given_frames: str = "v1.3"
    joint_text: bool = False
    float32_angles: bool = False
    decodes_together: bool = False
    streamed_layers: tuple[str, ...] = ()
    streamed_table: str = ""
    shapes_decide: bool = False
    nested_config: str = ""
    table_name: str = "TABLE"
    is_sharded: bool = False

    @property
    def cell(self) -> Any:
        """The Cell's class."""
        return getattr(self._module("model"), self.name)

    @property
    def config(self) -> Any:
        """The class of the Cell's configuration."""
        return getattr(self._module("model"), self.config_name)

    @property
    def names(self) -> NameTable:
        """What upstream's checkpoints call the parameters."""
        return getattr(self._module("names"), self.table_name)

    @property
    def sharding(self) -> Sharding:
        """How ranks share the parameters of a model that `is_sharded`."""
        return self._module("sharding").SHARDING

    @property
    def cost(self) -> ModuleType:
        """Operations and memory of the model; mindsora.models.cost lists the functions, by component."""
        return self._module("cost")

    @property
    def components(self) -> dict[str, str]:
        """Component -> class, for a model folder with this denoiser and the default of every other component."""
        return {"transformer": self.name} | {name: classes[0] for name, classes in self.companions.items()}

    def _module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")
