"""The numbers against which `mindsora doctor --bringup` compares a card. Its steps run in tests/ascend_sim."""

import json

import mindspore as ms
import numpy as np
import pytest

from mindsora.audit import bringup
from mindsora.errors import InputError


@pytest.mark.full
@pytest.mark.parametrize("name", bringup.small_cells())
def test_goldens_are_what_the_cpu_computes(name):
    golden = json.loads(bringup.GOLDENS.read_text())[name]
    expected = np.array(golden["values"], np.float32).reshape(golden["shape"])
    # Six digits are written; compiler and processor change the order of sums, and with it float32's seventh digit.
    assert bringup.compare(bringup.small_output(name, ms.float32), expected, "float32") < 2e-5


def test_compare_finds_what_is_wrong():
    expected = np.array([1.0, -4.0, 2.0])
    assert bringup.compare(ms.Tensor(expected, ms.float32), expected, "float32") == 0
    for wrong in ([1.0, -4.0, 2.001], [1.0, -4.0, np.nan], [1.0, -4.0, np.inf]):
        with pytest.raises(bringup.Failed, match="of the largest number"):
            bringup.compare(ms.Tensor(wrong, ms.float32), expected, "float32")


def test_convolution_by_numpy():
    x, weight = np.ones((1, 2, 3, 4, 5)), np.ones((1, 2, 3, 3, 3))
    y = bringup._convolved(x, weight)
    assert y.shape == (1, 1, 1, 4, 5)
    assert y[0, 0, 0, 0, 0] == 2 * 3 * 4 and y[0, 0, 0, 1, 1] == 2 * 3 * 9  # a corner sees 4 of 9 positions


def test_a_first_failure_ends_it(monkeypatch, tmp_path):
    def good():
        yield "answer", 42

    def bad():
        yield "before", 1
        raise bringup.Failed("too much")

    device = type("Device", (), {"device_target": "Ascend"})
    monkeypatch.setattr(bringup.ms, "get_current_device", lambda: device)
    monkeypatch.setattr(bringup, "device_part", lambda: "a card")
    monkeypatch.setattr(bringup, "STEPS", {"blocks": good, "cells": bad, "video": good})
    lines = []
    assert not bringup.bring_up(tmp_path / "told.json", lines.append)
    told = json.loads((tmp_path / "told.json").read_text())
    assert list(told["steps"]) == ["blocks", "cells"]
    assert told["steps"]["cells"]["failure"] == "too much"
    assert told["measured"] == {"blocks: answer": 42, "cells: before": 1}
    assert "send us" in lines[-1]


def test_needs_a_card():
    with pytest.raises(InputError, match="--bringup checks an Ascend card"):
        bringup.bring_up("unused.json")
