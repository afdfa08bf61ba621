"""Choose the implementation of every operator by device, compiler and MINDSORA_KERNELS.

    ascend_custom    an AscendC operator of this project
    ascend_builtin   an operator that comes with CANN
    cpu              C++, compiled on first use
    reference        plain MindSpore, on any device: the definition of the result

Each operator's `accepts.py` lists its implementations in order of preference, with the dtypes and shapes that each
takes. The first one that can run here and takes the inputs runs. The environment variable MINDSORA_KERNELS overrides
this order: it holds one of the names above, which applies to every operator with such an implementation, or a list such
as `skiparse_attention=reference,conv3d=cpu`. If the implementation that it names cannot run or does not take the
inputs, the call raises an InputError. `mindsora kernels` prints the table.
"""

import difflib
import importlib
import os
from functools import cache
from pathlib import Path

import mindspore as ms

from mindsora.errors import InputError
from mindsora.kernels.accepts import Accepts
from mindsora.kernels.ascend.package import installed
from mindsora.kernels.build import library

VARIABLE = "MINDSORA_KERNELS"
KINDS = ("ascend_custom", "ascend_builtin", "cpu", "reference")

OPERATORS = (
    "conv3d",
    "skiparse_attention",
    "skiparse_permute",
    "qk_norm_rope",
    "ada_norm_modulate",
    "row_norm",
    "gelu",
    "haar",
)


@cache
def implementations(operator: str) -> dict[str, Accepts]:
    """The operator's implementations in order of preference, with the inputs that each accepts."""
    return importlib.import_module(f"mindsora.kernels.{operator}.accepts").ACCEPTS


def choose(operator: str, dtypes: dict | None = None, **facts) -> str:
    """Return the implementation of an operator that runs here; compile it first if necessary.

    Args:
        dtypes: input name -> dtype, for the inputs that the operator's `accepts.py` names; None if not known yet.
        facts: other facts that the choice depends on, such as shapes.

    Raises:
        InputError: MINDSORA_KERNELS names something unknown, or an implementation that cannot run here or does not take
            these inputs.
    """
    override = _override().get(operator)
    for kind in implementations(operator) if override is None else (override,):
        reason = obstacle(operator, kind) or implementations(operator)[kind].refusal(dtypes or {}, facts)
        if reason is None:
            return kind
    raise InputError(f"{VARIABLE} asks for {operator}={override}, which cannot run here: {reason}")


def device() -> str:
    """ "Ascend" or "CPU"."""
    return ms.get_context("device_target")


def obstacle(operator: str, kind: str) -> str | None:
    """The reason why an implementation cannot run here, or None if it can."""
    if kind not in implementations(operator):
        return "there is none"
    required = "Ascend" if kind.startswith("ascend") else "CPU" if kind == "cpu" else device()
    if device() != required:
        return f"the device is {device()}"
    if kind == "ascend_custom" and not installed(operator):
        return "the operator package is not installed (recipes/ascend_kernels/run.sh makes it)"
    if kind != "cpu":
        return None
    built = library(source(operator))
    return None if built.path else built.reason


def source(operator: str) -> Path:
    """The C++ source of an operator."""
    return Path(__file__).parent / operator / f"{operator}.cpp"


def symbol(operator: str, name: str) -> str:
    """The name of a function of the compiled operator, in the form that `ops.Custom` expects."""
    return f"{library(source(operator)).path}:{name}"


def _override() -> dict[str, str]:
    """Operator -> implementation, from the environment."""
    overrides = {}
    for part in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        operator, _, kind = (word.strip() for word in part.rpartition("="))
        for word, known in ((operator or "conv3d", OPERATORS), (kind, KINDS)):
            if word not in known:
                nearest = difflib.get_close_matches(word, known, 1, 0)[0]
                raise InputError(f"{VARIABLE}={os.environ[VARIABLE]!r}: no {word!r}; did you mean {nearest!r}?")
        named = [operator] if operator else [name for name in OPERATORS if kind in implementations(name)]
        overrides |= dict.fromkeys(named, kind)
    return overrides


def describe() -> str:
    """A readable table of the implementations that run, with the reasons."""
    override = os.environ.get(VARIABLE)
    lines = [f"device {device()}, {VARIABLE} {f'is {override!r}' if override else 'is not set'}"]
    wished = _override()
    for operator in OPERATORS:
        chosen = choose(operator)
        lines.append(f"{operator}: {chosen}{f' ({VARIABLE})' if operator in wished else ''}")
        for kind in KINDS:
            reason = obstacle(operator, kind)
            if kind == "cpu" and reason is None:
                reason = f"can run; {library(source(operator)).reason}"
            elif reason is None:
                reason = "can run"
            elif kind in implementations(operator):
                reason = f"cannot run: {reason}"
            lines.append(f"  {'*' if kind == chosen else ' '} {kind:15} {reason}")
    return "\n".join(lines)
