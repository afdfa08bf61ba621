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


@pytest.mark.parametrize("model", primitives.MODELS)
def test_primitives_are_those_of_the_table(model):
    kernels = {}
    for case in primitives.MODELS[model]:
        kernels |= outcome(case)["kernels"]
    assert kernels == primitives.read()["models"][model], "run: PYTHONPATH=.:tests python -m ascend_sim.primitives"


def test_what_takes_no_aclnn_kernel_has_a_reason():
    table = primitives.read()
    used = {name for kinds in table["models"].values() for name, kind in kinds.items() if kind in primitives.EXPLAINED}
    assert {name for name, reason in table["reasons"].items() if reason} == used
