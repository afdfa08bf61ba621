"""The choice of implementation, the variable that overrides it, and the command that prints it."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindsora import cli
from mindsora.errors import InputError
from mindsora.kernels import choice
from mindsora.kernels.build import Library
from mindsora.kernels.gelu import gelu_tanh


@pytest.fixture
def ascend(monkeypatch):
    monkeypatch.setattr(choice, "device", lambda: "Ascend")


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(choice, "library", lambda source: Library(None, "no C++ compiler was found"))


def chosen():
    return {operator: choice.choose(operator) for operator in choice.OPERATORS}


def test_on_cpu():
    assert set(chosen().values()) == {"cpu"}


def test_on_cpu_without_a_compiler(no_compiler):
    assert set(chosen().values()) == {"reference"}


def test_on_ascend(ascend):
    plain = {"haar": "reference", "skiparse_permute": "reference"}
    assert chosen() == dict.fromkeys(choice.OPERATORS, "ascend_builtin") | plain


ATTENTION = {"shape": (1, 64, 2, 64), "sparse_n": 4, "hides_video": False}
EVERYTHING = ("x", "q", "weight", "gate", "tables")


def every(dtype):
    """All inputs have this dtype."""
    return dict.fromkeys(EVERYTHING, dtype)


def test_what_runs_for_a_dtype():
    both, single = ("ada_norm_modulate", "skiparse_attention"), ("gelu", "row_norm", "haar")
    assert {choice.choose(name, every(ms.float32)) for name in choice.OPERATORS} == {"cpu"}
    assert {choice.choose(name, every(ms.float16)) for name in (*both, "conv3d", "skiparse_permute")} == {"cpu"}
    assert {choice.choose(name, every(ms.float16)) for name in single} == {"reference"}
    assert {choice.choose(name, every(ms.bfloat16)) for name in (*both, *single)} == {"reference"}
    assert choice.choose("qk_norm_rope", {"x": ms.float16, "tables": ms.float32}) == "cpu"
    assert choice.choose("qk_norm_rope", every(ms.float16)) == "reference"  # v1.3's tables
    assert choice.choose("row_norm", {"x": ms.float32, "weight": ms.float16}) == "reference"


def test_what_is_not_accepted_goes_to_the_next_implementation(ascend, monkeypatch):
    def attention(dtype, **facts):
        return choice.choose("skiparse_attention", {"q": dtype}, **ATTENTION | facts)

    assert attention(ms.float16) == attention(ms.bfloat16) == "ascend_builtin"
    assert attention(ms.float32) == attention(ms.float16, sparse_n=400) == "reference"
    monkeypatch.setattr(choice, "installed", lambda operator: True)
    assert attention(ms.float16, sparse_n=400) == "ascend_custom"  # more segments than CANN's operator takes
    assert attention(ms.float16, sparse_n=400, hides_video=True) == "reference"
    assert attention(ms.float16, shape=(1, 64, 2, 640)) == attention(ms.float16, shape=(1, 64, 2, 72)) == "reference"
    assert attention(ms.float16, shape=(1, 64, 2, 512)) == "ascend_builtin"


@pytest.mark.parametrize(
    "operator, dtypes, facts, taken",
    [
        ("skiparse_permute", {"x": ms.float16}, {"dtype": ms.float16, "width": 32}, True),
        ("skiparse_permute", {"x": ms.float16}, {"dtype": ms.float16, "width": 3}, False),
        ("skiparse_permute", {"x": ms.int8}, {"dtype": ms.int8, "width": 32}, False),
        ("qk_norm_rope", {"x": ms.bfloat16, "tables": ms.float32}, {"shape": (1, 64, 24, 128)}, True),
        ("qk_norm_rope", {"x": ms.bfloat16, "tables": ms.bfloat16}, {"shape": (1, 64, 24, 128)}, False),
        ("qk_norm_rope", {"x": ms.bfloat16, "tables": ms.float32}, {"shape": (1, 64, 256, 128)}, False),
        ("qk_norm_rope", {"x": ms.bfloat16, "tables": ms.float32}, {"shape": (1, 64, 24, 72)}, False),
        ("ada_norm_modulate", {"x": ms.float16}, {"shape": (1, 64, 3072)}, True),
        ("ada_norm_modulate", {"x": ms.float16}, {"shape": (1, 64, 4112)}, False),
        ("ada_norm_modulate", {"x": ms.float32}, {"shape": (1, 64, 3072)}, False),
    ],
)
def test_what_our_operators_accept(ascend, monkeypatch, operator, dtypes, facts, taken):
    monkeypatch.setattr(choice, "installed", lambda operator: True)
    assert (choice.choose(operator, dtypes, **facts) == "ascend_custom") == taken
    monkeypatch.setenv("MINDSORA_KERNELS", f"{operator}=ascend_custom")
    if taken:
        assert choice.choose(operator, dtypes, **facts) == "ascend_custom"
    else:
        with pytest.raises(InputError, match=f"{operator}=ascend_custom, which cannot run here: .*it takes "):
            choice.choose(operator, dtypes, **facts)


def test_a_wish_that_a_dtype_does_not_allow(monkeypatch):
    """The message names the operator, the implementation, the dtype and the accepted dtypes, also in a graph."""
    x = Tensor(np.ones((2, 4), np.float16))
    assert gelu_tanh(x).dtype == ms.float16
    monkeypatch.setenv("MINDSORA_KERNELS", "gelu=cpu")
    for function in (gelu_tanh, ms.jit(gelu_tanh)):
        with pytest.raises(InputError, match="gelu=cpu, which cannot run here: x is float16; it takes float32"):
            function(x)


def test_every_operator_ends_with_its_definition():
    """The definition runs if no other implementation can."""
    for operator in choice.OPERATORS:
        kinds = choice.implementations(operator)
        assert list(kinds)[-1] == "reference" and kinds["reference"].refusal(every(ms.int8), {"shape": ()}) is None
        assert set(kinds) <= set(choice.KINDS)


@pytest.mark.parametrize(
    "value, expected",
    [
        ("reference", dict.fromkeys(choice.OPERATORS, "reference")),
        ("conv3d=reference, qk_norm_rope=reference", {"conv3d": "reference", "qk_norm_rope": "reference"}),
        ("reference,conv3d=cpu", dict.fromkeys(choice.OPERATORS, "reference") | {"conv3d": "cpu"}),
        ("", {}),
    ],
)
def test_override(value, expected, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", value)
    assert chosen() == dict.fromkeys(choice.OPERATORS, "cpu") | expected


@pytest.mark.parametrize(
    "value, words",
    [
        ("gpu", "no 'gpu'; did you mean 'cpu'"),
        ("conv=cpu", "no 'conv'; did you mean 'conv3d'"),
        ("conv3d=ascend_builtin", "conv3d=ascend_builtin, which cannot run here: the device is CPU"),
        ("conv3d=ascend_custom", "conv3d=ascend_custom, which cannot run here: there is none"),
    ],
)
def test_override_that_cannot_be(value, words, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", value)
    with pytest.raises(InputError, match=words):
        choice.choose("conv3d")


def test_compiled_operator_asked_for_without_a_compiler(no_compiler, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "cpu")
    with pytest.raises(InputError, match="skiparse_permute=cpu, which cannot run here: no C.. compiler was found"):
        choice.choose("skiparse_permute")


def test_command(capsys, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "conv3d=reference")
    assert cli.main(["kernels"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("device CPU, MINDSORA_KERNELS is 'conv3d=reference'\n")
    assert "\nconv3d: reference (MINDSORA_KERNELS)\n" in out and "\n  * reference       can run\n" in out
    assert "\nskiparse_attention: cpu\n" in out and "\n  * cpu             can run; compiled: " in out
    assert "    ascend_builtin  cannot run: the device is CPU\n" in out


def test_command_with_a_wrong_variable(capsys, monkeypatch):
    monkeypatch.setenv("MINDSORA_KERNELS", "conv3d=fast")
    assert cli.main(["kernels"]) == 2
    assert "no 'fast'; did you mean" in capsys.readouterr().err
