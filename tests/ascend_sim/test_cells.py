"""Every Cell compiles for Ascend: operator inference, kernel selection and memory planning by MindSpore itself."""

import pytest

from ascend_sim import primitives
from ascend_sim.groups import CELLS, outcome

pytestmark = pytest.mark.full
CASES = [case for group in CELLS for case in group]


@pytest.mark.parametrize("case", CASES)
def test_compiles(case):
    assert not outcome(case)["error"]


@pytest.mark.parametrize("case", CASES)
def test_repeats_no_weight(case):
    # The scheduler makes such tensors first and keeps them: v1.5's at 121x576x1024 together took 190 GiB.
    assert not outcome(case)["repeated"]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lengths_of_text_stay_on_the_host(dtype):
    """The host knows them before the first step; reading them back would let it wait for the device in every step."""
    assert outcome(f"suv_lengths_{dtype}")["read_back"] == 0
    assert outcome(f"suv_lengths_{dtype}")["compiled"] == 1  # for two prompts
    assert outcome(f"suv_mask_{dtype}")["read_back"] > 0  # where they are Tensors


@pytest.mark.parametrize("model", primitives.MODELS)
def test_primitives_are_those_of_the_table(model):
    assert primitives.kernels(primitives.MODELS[model]) == primitives.read()["models"][model]


def test_what_takes_no_aclnn_kernel_has_a_reason():
    table = primitives.read()
    used = {name for kinds in table["models"].values() for name, kind in kinds.items() if kind in primitives.EXPLAINED}
    assert {name for name, reason in table["reasons"].items() if reason} == used
