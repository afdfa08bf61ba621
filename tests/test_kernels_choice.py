"""Which implementation runs, the variable that overrides it, and the command that says so."""

import mindspore as ms
import pytest

from mindsora import cli
from mindsora.errors import InputError
from mindsora.kernels import choice
from mindsora.kernels.ascend import custom
from mindsora.kernels.build import Library
from mindsora.kernels.skiparse_attention import _kind
from mindsora.kernels.skiparse_attention import ascend as builtin


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
    built_in = {"conv3d": "ascend_builtin", "skiparse_attention": "ascend_builtin"}
    assert chosen() == dict.fromkeys(choice.OPERATORS, "reference") | built_in


def test_attention_that_the_operator_of_ascend_does_not_take(ascend):
    video, text = (1, 64, 2, 64), (None, None, None)
    assert _kind(ms.float16, video, video, video, text, 4) == "ascend_builtin"
    assert _kind(ms.float32, video, video, video, text, 4) == "reference"


def test_bfloat16_on_cpu_runs_the_definition():
    video = (1, 64, 2, 64)
    assert _kind(ms.bfloat16, video, video, video, (None, None, None), 4) == "reference"


def test_what_runs_for_a_dtype():
    both, single = ("ada_norm_modulate", "skiparse_attention"), ("gelu", "row_norm", "haar")
    assert {choice.runs(name, ms.float32) for name in choice.OPERATORS} == {"cpu"}
    assert {choice.runs(name, ms.float16) for name in (*both, "conv3d", "skiparse_permute")} == {"cpu"}
    assert {choice.runs(name, ms.float16) for name in single} == {"reference"}
    assert {choice.runs(name, ms.bfloat16) for name in (*both, *single)} == {"reference"}
    assert choice.runs("qk_norm_rope", ms.float16, ms.float32) == "cpu"
    assert choice.runs("qk_norm_rope", ms.float16, ms.float16) == "reference"  # v1.3's tables
    assert choice.runs("row_norm", ms.float32, ms.float16) == "reference"


def test_what_runs_for_a_dtype_on_ascend(ascend, monkeypatch):
    """The operators' own checks, which know the shapes, take no dtype that the table leaves out, nor fewer."""
    monkeypatch.setattr(choice, "installed", lambda operator: True)
    for dtype in (ms.float32, ms.float16, ms.bfloat16):
        taken = {
            "skiparse_attention": builtin.takes(dtype, (1, 64, 2, 64), 4),
            "qk_norm_rope": custom.takes_norm_rope(dtype, (1, 64, 2, 64), ms.float32),
            "ada_norm_modulate": custom.takes_ada_norm(dtype, (1, 64, 128)),
        }
        assert {name: choice.runs(name, dtype, ms.float32) != "reference" for name in taken} == taken


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
