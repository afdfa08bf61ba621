"""The cost model of the Ascend kernels: its counts against the design's arithmetic and against what the twin counts."""

import json
import sys
from pathlib import Path

import numpy as np
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


def test_cycles_of_a_block(roofline):
    """Of 256 x 512 scores at head_dim 128, computed by hand from bytes and rates."""
    busy = roofline.cycles(roofline.forward_work(128, 1000))
    block = {unit: count / 1000 for unit, count in busy.items()}
    assert block["cube"] == 2 * 256 * 512 * 128 / 4096
    assert block["Fixpipe"] == pytest.approx((512 + 128) * 1024 / 86, rel=0.001)
    assert block["MTE2 of the cube"] == pytest.approx((128 + 128 + 256) * 1024 / 110, rel=0.001)  # K, V, P
    assert block["MTE1"] == (64 + 256) * 1024 / 256 + (128 + 256) * 1024 / 128
    assert block["MTE3"] == pytest.approx(128 * 1024 / 86, rel=0.01)
    assert max(block, key=block.get) in ("cube", "vector")
    assert roofline.share_of_peak(roofline.forward_work(128, 20)) >= 0.55


def test_gradients_move_less_through_fixpipe(roofline):
    """Sums over 512 queries or 256 keys in L0C, against one of 256 queries or 128 keys: 1.5 MiB of 2 MiB."""
    block = roofline.gradient_work(128, 1)["cube FIX"].bytes
    before = 4 * 256 / 128 * 512 / 256 * (2 * 128 * 256 + 2 * 128 * 128 + 256 * 128)
    assert block == 0.75 * before
    busy = roofline.cycles(roofline.gradient_work(128, 20))
    assert max(busy, key=busy.get) == "cube"


def test_less_through_fixpipe_takes_more_than_l1():
    """Share of the former bytes with a tile of 128 a keys and a block of 128 b queries; L1 has room for a b = 8."""
    shares = {(a, b): (128 + 64 / a + 128 / b) / 256 for a in range(1, 41) for b in range(1, 41)}
    assert min(share for (a, b), share in shares.items() if a * b <= 8) == shares[2, 4] == 0.75
    assert min(a * b for (a, b), share in shares.items() if share <= 0.6 + 1e-9) == 5 * 10


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
    # rows are rounded up to 16 in each half tile, 128 + 128 + 44 and 40, columns of the scores to 16
    assert macs <= counted["macs"] <= 1.1 * macs
    assert counted["units"]["cube FIX"]["bytes"] == sum(length * keys[b] * 4 + length * dim * 4 for b in range(groups))


TOKENS, DIM = 1024, 128


@pytest.fixture(scope="module")
def counted():
    """Counters of the twin for a dense head of 1,024 tokens: forward, and gradients with atomic addition."""
    random = np.random.RandomState(0)
    q, k, v, d_out = (random.standard_normal((1, TOKENS, 1, DIM)).astype(np.float16) for _ in range(4))
    numbers = {"batch": 1, "tokens": TOKENS, "text": 0, "heads": 1, "dim": DIM, "n": 1, "group": 0, "brain": 0}
    inputs = {"q": q, "k": k, "v": v}
    forward, ahead = twin.run("skiparse_attention", inputs, {"out": "float16", "lse": "float32"}, cores=1, **numbers)
    inputs |= {"out": forward["out"], "lse": forward["lse"], "d_out": d_out}
    outputs = dict.fromkeys(("dq", "dk", "dv"), "float16")
    _, back = twin.run("skiparse_attention_grad", inputs, outputs, cores=1, **numbers)
    return {"forward_work": ahead["units"], "gradient_work": back["units"]}


@pytest.mark.parametrize("direction", ["forward_work", "gradient_work"])
def test_the_twin_counts_what_the_model_counts(roofline, counted, direction):
    """Steps, bytes, instructions, barriers and flags of every pipe, to 10 %."""
    units, blocks = TOKENS // roofline.TILE, TOKENS // roofline.BLOCK
    model = getattr(roofline, direction)(DIM, blocks)
    for pipe, work in model.items():
        actual = counted[direction][pipe]
        for what in ("steps", "bytes", "instructions", "barriers"):
            expected = units * getattr(work, what)
            assert actual[what] == pytest.approx(expected, rel=0.1), (pipe, what)
    for core in ("cube", "vector"):
        flags = sum(unit["flags"] for pipe, unit in counted[direction].items() if pipe.startswith(core))
        expected = units * 4 * sum(work.buffers for pipe, work in model.items() if pipe.startswith(core))
        assert flags == pytest.approx(expected, rel=0.1), core


def test_barriers_of_the_softmax(counted):
    """A vector core waits at most 40 times for its own pipe in 128 x 512 scores; it was 104."""
    blocks = TOKENS // 128 * TOKENS // 512
    assert counted["forward_work"]["vector V"]["barriers"] / 2 / blocks <= 40


def test_command(roofline, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(roofline.receipt, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["ascend_roofline.py", "--part", "910b4", "--frames", "33"])
    roofline.main()
    result = json.loads((tmp_path / "ascend_roofline.json").read_text())
    assert result["measured"] is False and "MODEL, NOT MEASURED" in capsys.readouterr().out
    ways = result["forward_ms"]
    assert ways["grouped"] < ways["rearrange"] < ways["dense"]


def test_the_twin_is_never_skipped():
    """These tests fail on a machine without a compiler; none of them may be skipped."""
    for path in (ROOT / "tests").glob("test_ascend_*.py"):
        assert "skip" + "if" not in path.read_text() and "importor" + "skip" not in path.read_text(), path
    assert twin.OPERATORS
