"""The cost model of the Ascend kernels: its counts against the design's arithmetic and against what the twin counts."""

import json
import sys
from pathlib import Path

import pytest
from ascendc_host import twin

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def roofline():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import ascend_roofline
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return ascend_roofline


def test_peaks(roofline):
    """TFLOP/s of the parts: cores x 4096 x 2 x clock."""
    peaks = {"910b1": 363.7, "910b2": 353.9, "910b3": 294.9, "910b4": 245.8, "910_93": 353.9}
    assert {name: round(roofline.load_part(name).peak / 1e12, 1) for name in peaks} == peaks


def test_cycles_of_a_block_are_the_designs(roofline):
    cycles = roofline.fused_block(128)
    assert cycles["cube"] == 4096
    assert cycles["MTE1"] == pytest.approx(2700, rel=0.02)
    assert cycles["Fixpipe"] == pytest.approx(3810, rel=0.02)
    assert cycles["MTE2 of the cube"] == pytest.approx(3570, rel=0.02)
    assert 3600 <= cycles["vector"] <= 4000
    assert cycles["MTE2 of a vector core"] == pytest.approx(1500, rel=0.02)
    assert cycles["MTE3"] == pytest.approx(750, rel=0.02)


@pytest.mark.parametrize("n, at_60_percent", [(1, 80.8), (2, 41.5), (4, 21.9), (8, 12.1)])
def test_attention_at_the_released_size(roofline, n, at_60_percent):
    """ms of CANN's flash attention at 60 % of the peak, 36,864 + 512 tokens, 24 heads x 128."""
    part = roofline.load_part("910b2")
    seconds = roofline.attention(part, "grouped", 1, 36864, 512, 24, 128, n)
    assert 1e3 * seconds["attention"] == pytest.approx(at_60_percent, rel=0.01)


def test_traffic_of_the_fused_attention_is_what_the_twin_counts(roofline):
    """Multiply-adds exactly; bytes of scores and weights up to the text mean and the row statistics."""
    from test_ascend_kernels import Attention

    case = Attention("dense, device tiles", "float16", batch=2)
    _, counted = case.forward()
    groups, length, dim = 2, 300 + 40, 64
    keys = [300 + words for words in case.lengths]
    macs = sum(2 * rows * keys[b] * dim for b in range(groups) for rows in (300, 40))
    # rows are rounded up to 16 in each of the tiles 128 + 128 + 44 and 40, columns of the scores to 16
    assert macs <= counted["macs"] <= 1.1 * macs
    assert counted["fix"] == sum(length * keys[b] * 4 + length * dim * 4 for b in range(groups))


def test_command(roofline, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(roofline.receipt, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["ascend_roofline.py", "--part", "910b4", "--frames", "33"])
    roofline.main()
    result = json.loads((tmp_path / "ascend_roofline.json").read_text())
    assert result["measured"] is False and "MODEL, NOT MEASURED" in capsys.readouterr().out
    ways = result["forward_ms"]
    assert ways["grouped"] < ways["rearrange"] < ways["dense"]


def test_the_twin_is_never_skipped():
    """A machine without a compiler fails these tests; nothing here may be marked as skipped."""
    for path in (ROOT / "tests").glob("test_ascend_*.py"):
        assert "skip" + "if" not in path.read_text() and "importor" + "skip" not in path.read_text(), path
    assert twin.OPERATORS
