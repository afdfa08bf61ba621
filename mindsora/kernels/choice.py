"""What runs: for every operator one of its implementations, by device, compiler and the user's wish.

    ascend_custom    an operator of our own in AscendC
    ascend_builtin   an operator that comes with CANN
    cpu              C++, compiled on first use
    reference        plain MindSpore, on any device: the definition of the result

Each operator's `accepts.py` lists its implementations in order of preference, with the dtypes and shapes that each
takes; the first that can run here and takes the inputs runs. The environment variable MINDSORA_KERNELS overrides: one of
the names above for every operator that has it, or a list such as `skiparse_attention=reference,conv3d=cpu`. An
implementation that the variable names and that cannot run, or does not take the inputs, is an error. `mindsora kernels`
prints the table.
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
    """Its implementations in order of preference, and what each takes."""
    return importlib.import_module(f"mindsora.kernels.{operator}.accepts").ACCEPTS


def choose(operator: str, dtypes: dict | None = None, **facts) -> str:
    """The implementation of an operator that runs here. Compiles it, where that was not done before.

    Args:
        dtypes: input's name -> dtype, of the inputs that the operator's `accepts.py` names; left out where they are not
            known yet.
        facts: what else decides, such as shapes.

    Raises:
        InputError: MINDSORA_KERNELS names something unknown, or an implementation that cannot run here or does not take
            these inputs.
    """
    wanted = _override().get(operator)
    for kind in implementations(operator) if wanted is None else (wanted,):
        reason = obstacle(operator, kind) or implementations(operator)[kind].refusal(dtypes or {}, facts)
        if reason is None:
            return kind
    raise InputError(f"{VARIABLE} asks for {operator}={wanted}, which cannot run here: {reason}")


def device() -> str:
    """ "Ascend" or "CPU"."""
    return ms.get_context("device_target")


def obstacle(operator: str, kind: str) -> str | None:
    """Why an implementation cannot run here; None where it can."""
    if kind not in implementations(operator):
        return "there is none"
    wanted = "Ascend" if kind.startswith("ascend") else "CPU" if kind == "cpu" else device()
    if device() != wanted:
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
    """A function of the compiled operator, as `ops.Custom` wants it named."""
    return f"{library(source(operator)).path}:{name}"


def _override() -> dict[str, str]:
    """Operator -> implementation, from the environment."""
    wanted = {}
    for part in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        operator, _, kind = (word.strip() for word in part.rpartition("="))
        for word, known in ((operator or "conv3d", OPERATORS), (kind, KINDS)):
            if word not in known:
                nearest = difflib.get_close_matches(word, known, 1, 0)[0]
                raise InputError(f"{VARIABLE}={os.environ[VARIABLE]!r}: no {word!r}; did you mean {nearest!r}?")
        named = [operator] if operator else [name for name in OPERATORS if kind in implementations(name)]
        wanted |= dict.fromkeys(named, kind)
    return wanted


def describe() -> str:
    """A table of what runs and why, for people."""
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
