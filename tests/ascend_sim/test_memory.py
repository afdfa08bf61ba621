"""What MindSpore would hold on the card at once, by its own memory planner. CANN's workspaces come on top."""

import pytest

from ascend_sim.groups import outcome

PLAN = 1.1  # of what `mindsora plan` says


def figures(case: str) -> dict:
    assert not outcome(case)["error"]
    return outcome(case)["figures"]


@pytest.mark.full
@pytest.mark.parametrize("case", ["memory_six_blocks", "memory_decoder"])
def test_as_planned(case):
    told = figures(case)
    assert told["peak"] <= PLAN * told["planned"]


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        pytest.param("memory_v1_5", 40, marks=pytest.mark.full),
        pytest.param("memory_v1_3", 28, marks=pytest.mark.slow),
    ],
)
def test_a_whole_generation_fits(case, limit):
    """Released models compile whole: text encoders, denoiser and decoder at the released size."""
    told = figures(case)
    assert told["peak"] <= min(limit, PLAN * told["planned"])  # GiB; the card has 64
    assert outcome(case)["read_back"] == 0  # no graph waits for the device
