"""What runs: for every operator one of its implementations, by device, compiler and the user's wish.

    ascend_custom    an operator of our own in AscendC
    ascend_builtin   an operator that comes with CANN
    cpu              C++, compiled on first use
    reference        plain MindSpore, on any device: the definition of the result

The environment variable MINDSORA_KERNELS overrides: one of these names for every operator that has it, or a list such
as `skiparse_attention=reference,conv3d=cpu`. An implementation that was asked for and cannot run is an error.
`mindsora kernels` prints the table.
"""

import difflib
import os
from pathlib import Path

import mindspore as ms

from mindsora.errors import InputError
from mindsora.kernels.ascend.package import installed
from mindsora.kernels.build import library

VARIABLE = "MINDSORA_KERNELS"
KINDS = ("ascend_custom", "ascend_builtin", "cpu", "reference")

# Implementations of each operator, in order of preference. Our fused attention stands behind CANN's until it has been
# measured there (recipes/ascend_kernels).
OPERATORS = {
    "conv3d": ("ascend_builtin", "cpu", "reference"),  # mint.nn.functional.conv3d
    "skiparse_attention": ("ascend_builtin", "ascend_custom", "cpu", "reference"),  # ops.flash_attention_score
    "skiparse_permute": ("ascend_custom", "cpu", "reference"),
    "qk_norm_rope": ("ascend_custom", "cpu", "reference"),
    "ada_norm_modulate": ("ascend_custom", "cpu", "reference"),
    "row_norm": ("cpu", "reference"),
    "gelu": ("cpu", "reference"),
    "haar": ("cpu", "reference"),
}

_SINGLE, _HALVES, _NO_BFLOAT16 = (ms.float32,), (ms.float16, ms.bfloat16), (ms.float32, ms.float16)
# The dtypes that an implementation takes, of each input that matters; what is not named here takes any.
DTYPES = {
    ("skiparse_attention", "ascend_builtin"): (_HALVES,),
    ("skiparse_attention", "ascend_custom"): (_HALVES,),
    ("skiparse_attention", "cpu"): (_NO_BFLOAT16,),
    ("qk_norm_rope", "ascend_custom"): (_HALVES, _SINGLE),  # x, and the rotary tables: half precision asks for a
    ("qk_norm_rope", "cpu"): (_NO_BFLOAT16, _SINGLE),  # rotation in half precision (v1.3)
    ("ada_norm_modulate", "ascend_custom"): (_HALVES,),
    ("ada_norm_modulate", "cpu"): (_NO_BFLOAT16,),
    ("row_norm", "cpu"): (_SINGLE, _SINGLE),  # x, weight; nothing is rounded on the way, as half precision has to be
    ("gelu", "cpu"): (_SINGLE, _SINGLE),  # x, gate
    ("haar", "cpu"): (_SINGLE,),
}


def runs(operator: str, *dtypes) -> str:
    """The implementation of an operator that runs for inputs of these dtypes: `choose`'s, or else the reference.

    (On Ascend it also depends on the shapes; each operator knows.)
    """
    kind = choose(operator)
    taken = all(dtype in legal for dtype, legal in zip(dtypes, DTYPES.get((operator, kind), ())))
    return kind if taken else "reference"


def choose(operator: str) -> str:
    """The implementation of an operator that is preferred here. Compiles it, where that was not done before.

    Raises:
        InputError: MINDSORA_KERNELS names something unknown or an implementation that cannot run here.
    """
    wanted = _override().get(operator)
    if wanted is None:
        return next(kind for kind in OPERATORS[operator] if obstacle(operator, kind) is None)
    if reason := obstacle(operator, wanted):
        raise InputError(f"{VARIABLE} asks for {operator}={wanted}, which cannot run here: {reason}")
    return wanted


def device() -> str:
    """ "Ascend" or "CPU"."""
    return ms.get_context("device_target")


def obstacle(operator: str, kind: str) -> str | None:
    """Why an implementation cannot run here; None where it can."""
    if kind not in OPERATORS[operator]:
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
        named = [operator] if operator else [name for name, kinds in OPERATORS.items() if kind in kinds]
        wanted |= dict.fromkeys(named, kind)
    return wanted


def describe() -> str:
    """A table of what runs and why, for people."""
    override = os.environ.get(VARIABLE)
    lines = [f"device {device()}, {VARIABLE} {f'is {override!r}' if override else 'is not set'}"]
    wished = _override()
    for operator, kinds in OPERATORS.items():
        chosen = choose(operator)
        lines.append(f"{operator}: {chosen}{f' ({VARIABLE})' if operator in wished else ''}")
        for kind in KINDS:
            reason = obstacle(operator, kind)
            if kind == "cpu" and reason is None:
                reason = f"can run; {library(source(operator)).reason}"
            elif reason is None:
                reason = "can run"
            elif kind in kinds:
                reason = f"cannot run: {reason}"
            lines.append(f"  {'*' if kind == chosen else ' '} {kind:15} {reason}")
    return "\n".join(lines)
