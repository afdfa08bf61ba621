"""A round of each campaign of tests/campaigns, and what they leave to other tests."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "campaigns"))

import corpora
import damage
import fuzz
import kills
import races
import soak

pytestmark = pytest.mark.full


def test_killed_conversion(tmp_path):
    assert kills.conversions(tmp_path, 1, rows=2**14)["kills"] == 1


def test_killed_generation(tmp_path):
    assert kills.generations(tmp_path, 1)["kills"] == 1


def test_racing_conversions(tmp_path):
    assert races.conversions(tmp_path, 2, rows=2**14) == {"races": 2, "refused_by_name": 2}


def test_racing_generations(tmp_path):
    assert races.generations(tmp_path, 1)["races"] == 1


def test_damaged_kernel_library(tmp_path):
    assert damage.kernel_libraries(tmp_path, 2) == {"damages": 2}


def test_damaged_checkpoints(tmp_path):
    assert corpora.damaged(tmp_path, 1)["peak_mb"] < 400


def test_every_fuzz_target_is_a_test():
    for node in fuzz.TARGETS.values():
        file, name = node.split("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text()


def test_soak(tmp_path):
    assert soak.generate_calls(tmp_path, 8)["calls"] == 8
