"""Recognise the model, the configuration and the naming of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from mindsora.ckpt_convert.checkpoint import Checkpoint
from mindsora.ckpt_convert.dtypes import FLOATING
from mindsora.ckpt_convert.entry import Entry
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.models.naming import NameTable
from mindsora.models.spec import ModelSpec

CELL_NAMES = "mindsora"  # metadata "names" of a safetensors file with the Cells' own names
MAX_VALUES = 4096  # values of a setting that is a tensor; bounds memory. The released v1.5 autoencoder has 32


@dataclass(frozen=True)
class Recognised:
    """A checkpoint under upstream's canonical names.

    Attributes:
        model: class name of the Cell.
        names: the naming of the file, "upstream" or "mindsora" (the Cell's own parameter names).
        config: keys for Model.from_upstream, from the weights, then the config.json, then the assumed values.
        assumed: keys of `config` that neither the weights nor a config.json determine.
        tensors: canonical upstream name -> Entry, weights and constants alike.
        dropped: names in the file that carry no weight of the model.
        settings: keys of `config` that are tensors in the file (NameTable.settings).
    """

    model: str
    names: str
    config: dict
    assumed: dict
    tensors: dict[str, Entry]
    dropped: list[str]
    settings: list[str]

    @property
    def spec(self) -> ModelSpec:
        return registry.spec(self.model)

    @property
    def table(self) -> NameTable:
        return self.spec.names


def recognise(checkpoint: Checkpoint, model: str = "auto") -> Recognised:
    """Find the model whose signature matches the names, and infer its configuration from the shapes.

    Args:
        model: a class name skips the search.

    Raises:
        InputError: the names match no model, the configuration contradicts the config.json, or two names of one tensor
            have different values.
    """
    known = registry.names()
    model = next(
        (name for name in known if name.lower() == model.lower()), "auto" if model.lower() == "auto" else model
    )
    if model != "auto" and model not in known:
        raise InputError(f"model {model!r}: choose from auto, {', '.join(known)}")
    for spec in registry.by_signature() if model == "auto" else (registry.spec(model),):
        for names in ("upstream", "mindsora"):
            if names == "mindsora" and not may_have_cell_names(checkpoint):
                continue
            tensors, dropped = canonical(spec.names, checkpoint, names)
            if spec.names.recognises(tensors):
                return _described(spec, names, checkpoint, tensors, dropped)
    guess = next((kind for kind, names in _STRANGERS if all(_has(checkpoint, name) for name in names)), None)
    seems = f" (it seems to be {guess})" if guess else ""
    raise InputError(
        f"{shown(checkpoint.path)} holds no {model if model != 'auto' else 'known model'}{seems}: its names begin with "
        f"{', '.join(shown(name, 80, quote=False) for name in list(checkpoint)[:4])}; known models: {', '.join(known)}"
    )


# Other models that users may try, with names that only they have ("*" stands for a number), from their public code.
_STRANGERS = (
    (
        "T5 v1.0, whose feed-forward has no gate; T5 v1.1, mT5 and UMT5 are known",
        ("encoder.block.*.layer.1.DenseReluDense.wi.weight",),
    ),
    ("Wan's transformer", ("blocks.*.self_attn.norm_q.weight", "patch_embedding.weight")),
    (
        "Wan's transformer in diffusers' names",
        ("blocks.*.attn1.norm_q.weight", "condition_embedder.time_embedder.linear_1.weight"),
    ),
    ("CogVideoX's transformer", ("transformer_blocks.*.norm1.linear.weight", "patch_embed.text_proj.weight")),
    ("HunyuanVideo's transformer", ("double_blocks.*.img_attn_qkv.weight",)),
    (
        "HunyuanVideo's transformer in diffusers' names",
        ("context_embedder.token_refiner.refiner_blocks.*.attn.to_q.weight",),
    ),
    ("an autoencoder of Stable Diffusion", ("encoder.down_blocks.*.resnets.0.conv1.weight", "post_quant_conv.weight")),
    ("a LoRA", ("*lora_A*",)),
    ("a CLIP vision model", ("vision_model.embeddings.class_embedding",)),
)


def _has(names: Mapping[str, Entry], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def may_have_cell_names(checkpoint: Checkpoint) -> bool:
    # A group-norm WF-VAE has the names of our layer-norm Cell, so only files written by MindSpore may have Cell names.
    return checkpoint.container == "MindSpore ckpt" or checkpoint.metadata.get("names") == CELL_NAMES


def naming(table: NameTable, checkpoint: Checkpoint) -> str:
    """The naming of a checkpoint of a known model: "upstream" or "mindsora"."""
    upstream, _ = canonical(table, checkpoint, "upstream")
    whole = table.recognises(upstream)
    return "mindsora" if not whole and may_have_cell_names(checkpoint) else "upstream"


def upstream_entries(table: NameTable, checkpoint: Checkpoint) -> dict[str, Entry]:
    """Upstream's canonical name -> tensor, of a checkpoint of a known model."""
    return canonical(table, checkpoint, naming(table, checkpoint))[0]


def canonical(table: NameTable, entries: Mapping[str, Entry], names: str) -> tuple[dict[str, Entry], list[str]]:
    """Rename entries to upstream's canonical names; also return the names that were dropped.

    Raises:
        InputError: two names of one tensor with different values.
    """
    renamed, dropped = {}, []
    for key, entry in entries.items():
        name = table.upstream_name(key) if names == "mindsora" else table.normalise(key)
        if name is None:
            dropped.append(key)
        elif name not in renamed:
            renamed[name] = entry.renamed(name)
        elif entry.shape != renamed[name].shape or entry.sha256() != renamed[name].sha256():
            raise InputError(f"{key!r} is another name of {name!r}, but the two have different values")
    return renamed, dropped


def _described(
    spec: ModelSpec, names: str, checkpoint: Checkpoint, tensors: dict[str, Entry], dropped: list[str]
) -> Recognised:
    table, shapes = spec.names, {name: entry.shape for name, entry in tensors.items()}
    if empty := [name for name, shape in shapes.items() if 0 in shape]:
        raise InputError(
            f"{shown(checkpoint.path)}: tensor {shown(empty[0])} of shape {shapes[empty[0]]} holds nothing"
        )
    try:
        inferred, assumed = table.infer(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, TypeError) as error:
        raise InputError(
            f"{shown(checkpoint.path)} looks like {spec.name}, but its shapes make no configuration: "
            f"{type(error).__name__} at {error}"
        ) from error
    given = dict(checkpoint.config or {})
    if spec.nested_config and isinstance(given.get(spec.nested_config), dict):
        given = given[spec.nested_config]
    given = table.plain(given)
    contradictions = [
        f"{key} = {given[key]!r} (the weights say {value!r})"
        for key, value in inferred.items()
        if key in given and given[key] != value and key not in table.often_wrong
    ]
    named = registry.named_upstream(given.get("_class_name"))
    if named not in (None, spec) and "_class_name" not in inferred:
        contradictions.append(f"_class_name = {given['_class_name']!r} (the weights say {spec.upstream[0]!r})")
    where = str(checkpoint.path)
    settings = {key: setting(tensors.pop(key), where) for key in table.settings if key in tensors}
    for key, values in settings.items():
        # The shortest decimals that round to the tensor's values: 0.18215, not 0.18214999437332153.
        decimals = [float(str(value)) for value in values]
        if key not in given:
            inferred[key] = decimals
        elif not says(given[key], values):
            contradictions.append(
                f"{key} = {str(given[key])[:200]} (the tensor {shown(key)} says {str(decimals)[:200]})"
            )
    if contradictions:
        raise InputError(f"config.json beside {shown(checkpoint.path)}: {'; '.join(contradictions)}")
    assumed = {key: value for key, value in assumed.items() if key not in given and key not in settings}
    config = assumed | given | inferred
    if table.class_name is not None and "_class_name" not in config:
        config["_class_name"] = table.class_name(config)
    return Recognised(spec.name, names, config, assumed, tensors, dropped, list(settings))


def setting(entry: Entry, where: str) -> np.ndarray:
    """Read a setting that is a tensor, such as (1, C, 1, 1, 1), as (C,)."""
    if entry.dtype not in FLOATING or entry.size > MAX_VALUES:
        raise InputError(
            f"{shown(where)}: tensor {shown(entry.name)} has {entry.size} values of {entry.dtype}; "
            f"this setting has at most {MAX_VALUES}, of a floating-point type"
        )
    values = entry.numpy().reshape(-1)
    if not np.isfinite(values.astype(np.float64)).all():
        raise InputError(
            f"{shown(where)}: tensor {shown(entry.name)} holds infinite values or NaN, which no config.json can hold"
        )
    return values


def says(given, values: np.ndarray) -> bool:
    """Whether a config.json's value (one number for all channels or one for each) equals the tensor in its precision."""
    try:
        return bool(np.all(np.asarray(given, np.float64).astype(values.dtype) == values))
    except (TypeError, ValueError, OverflowError):  # not numbers, or the wrong count
        return False


def build_cell(model: str, config: dict):
    """Build the model Cell with shapes but no values. InputError: the configuration is impossible."""
    from mindspore.nn.utils import no_init_parameters

    cell_class = registry.spec(model).cell
    try:
        with no_init_parameters():
            return cell_class.from_upstream(config)
    except InputError:
        raise
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:  # values come from a file
        why = " ".join(str(error).split())[:200]
        raise InputError(f"no {model} can be built from {str(config)[:400]}: {why}") from error


def fit(table: NameTable, cell, tensors: Mapping[str, Entry], where: str) -> dict[str, Entry]:
    """The entries that fill the Cell's parameters, by upstream's names.

    Raises:
        InputError: tensors are missing, unexpected or wrongly shaped; the message lists all of them.
    """
    parameters = {table.upstream_name(p.name): tuple(p.shape) for p in cell.get_parameters()}
    constants = table.constants(cell)
    missing = sorted(parameters.keys() - tensors.keys())
    known = parameters.keys() | constants.keys() | table.tolerated(cell) | set(table.settings)
    unexpected = sorted(tensors.keys() - known)
    wrong = [
        f"{name}: {tensors[name].shape}, expected {shape}"
        for name, shape in parameters.items()
        if name in tensors and tensors[name].shape != shape
    ]
    wrong += [
        f"{name}: not the fixed values of this architecture"
        for name, value in constants.items()
        if name in tensors and not _equals(tensors[name], value)
    ]
    if missing or unexpected or wrong:
        own = registry.spec_of(cell).name
        kind = (registry.recognised(tensors) or registry.spec_of(cell)).name
        raise InputError(
            f"{where} does not fit {own}{'' if kind == own else f'; it has the names of {kind}'}: "
            f"missing {missing}; unexpected {unexpected}; wrong shape {wrong}"
        )
    return {name: tensors[name] for name in parameters}


def _equals(entry: Entry, value: np.ndarray) -> bool:
    """Compare in the precision of the file: a float16 file holds the constants rounded to float16."""
    array = entry.numpy() if entry.shape == value.shape else None
    return array is not None and np.array_equal(array, value.astype(array.dtype))
