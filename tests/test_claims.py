"""Published claims: each has a source, arithmetic, and a command that runs under the user's own shape and device."""

import json
import shlex
import sys

import numpy as np
import pytest
import tiny_pipeline
from test_receipts import module

from mindsora import cli
from mindsora.audit import claims
from mindsora.audit.claims import CLAIMS, Claim, v1_3_flops, vbench_total
from mindsora.errors import InputError
from mindsora.media import export_to_video


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def user(model, tmp_path, monkeypatch):
    """The options of a user with a tiny model, a tiny clip and no Ascend card."""
    monkeypatch.chdir(tmp_path)
    export_to_video(np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8), "own.mp4")
    shape = ["--frames", "9", "--height", "16", "--width", "16"]
    return ["--model", model, *shape, "--device", "CPU", "--video", "own.mp4"]


def listed(arguments, capsys) -> dict[str, dict]:
    assert cli.main(["claims", "--json", *arguments]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_list(capsys):
    rows = listed([], capsys)
    assert list(rows) == ["suv-speed", "vae-psnr", "feature-cache", "memory-24gb", "vbench-total", "skiparse-k4"]
    for row in rows.values():
        assert all(row[key] for key in ("claim", "source", "bounds", "arithmetic", "command", "receipt"))
        assert row["command"].startswith("mindsora ") and "{" not in row["command"]
    assert "--model v1.5 --frames 121 --height 576 --width 1024 --device Ascend" in rows["suv-speed"]["command"]
    assert "--model v1.3 --frames 93 --height 480 --width 640 --device Ascend" in rows["memory-24gb"]["command"]
    assert "--model v1.3 --frames 93 --height 720 --width 1280 --device Ascend" in rows["skiparse-k4"]["command"]
    named = listed(["--model", "v1.3_i2v", "--height", "480"], capsys)  # missing options take that model's default
    assert all(
        "--model v1.3_i2v --frames 93 --height 480 --width 640" in named[name]["command"]
        for name in ("suv-speed", "skiparse-k4")
    )
    assert cli.main(["claims"]) == 0
    assert "36.91 dB" in capsys.readouterr().out


def test_arithmetic(capsys):
    """1.68, 2.55: operations that others counted for `SparseUMMDiT` at 121 x 576 x 1024. 37, 39, 13, 6 %: step times
    of Open-Sora Plan's table on cached features. 10.5 GiB: 5,655,173,120 weights of mT5-XXL's encoder, two bytes each."""
    rows = {name: row["arithmetic"] for name, row in listed([], capsys).items()}
    assert "1.68 times" in rows["suv-speed"] and "2.55 times" in rows["suv-speed"]
    assert "37 %, 39 %" in rows["feature-cache"] and "13 %, 6 %" in rows["feature-cache"]
    assert "text_encoder 10.5" in rows["memory-24gb"] and "transformer 5.2" in rows["memory-24gb"]
    assert "a peak of 22." in rows["memory-24gb"]
    assert "83.028" in rows["vbench-total"]
    assert vbench_total(84.24, 78.18) == pytest.approx(83.028)


def test_operations_of_v1_3():
    """Written out for 93 x 720 x 1280: 24 x 45 x 80 tokens, 32 blocks of width 2304, 28 of them with n = 4."""
    n, c = 24 * 45 * 80, 2304
    linear = 32 * (2 * n * (4 + 2 + 8) * c * c + 2 * 512 * 2 * c * c + 4 * n * 512 * c)
    linear += 2 * n * c * 4 * 16 + 2 * 512 * (4096 + c) * c + 2 * (256 + 7 * c) * c  # patches, text, time
    dense = 4 * n * n * c
    sparse, full = v1_3_flops(93, 720, 1280)
    assert full == linear + 32 * dense and sparse == linear + 4 * dense + 28 * dense / 4  # 16 divides n


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS])
def test_commands_run_under_the_users_shape_and_device(user, capsys, name):
    """The exact commands that the list prints, on CPU; all but one in PyNative, because compiling takes longest."""
    command = shlex.split(listed(user, capsys)[name]["command"])
    assert command.pop(0) == "mindsora"
    once = ["--repeats", "1"] if command[0] == "claims" else []
    assert cli.main([*command, *once, "--jit", "O0" if name == "suv-speed" else "off"]) == 0
    out = capsys.readouterr().out
    assert "measured  " in out


@pytest.mark.parametrize("task", ["t2v", "i2v"])
@pytest.mark.parametrize("name", ["skiparse-k4", "memory-24gb", "feature-cache"])
def test_commands_run_with_models_of_v1_3(tmp_path, capsys, task, name):
    """Without weights: only the configurations of the published models are present."""
    model = tiny_pipeline.write_v1_3(tmp_path / "model", task)
    for weights in model.rglob("*.safetensors"):
        weights.unlink()
    size = ["--frames", "5", "--height", "32", "--width", "32", "--device", "CPU", "--repeats", "1", "--jit", "off"]
    assert cli.main(["claims", name, "--model", str(model), *size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measured"]
    if name == "skiparse-k4":
        assert found["tokens"] == 8 and found["attention_seconds"].keys() == {"sparse", "dense"}
    assert found["summary"]


def test_measured_numbers(user, capsys):
    assert cli.main(["claims", "suv-speed", *user, "--repeats", "1", "--jit", "off", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measured"]
    assert found["tokens"] == 2 and found["repeats"] == 1
    seconds = {name: spread["median"] for name, spread in found["seconds"].items()}
    assert found["less_time_percent"] == pytest.approx(100 * (1 - seconds["sparse"] / seconds["dense"]))
    assert f"{found['less_time_percent']:.0f} % less time" in found["summary"]


@pytest.mark.parametrize(
    "command, words",
    [
        ("", "no runnable command"),
        ("measure it", "no runnable command"),
        ("mindsora dance", "no runnable command"),
        ("mindsora claims other", "no runnable command"),
    ],
)
def test_a_row_without_a_runnable_command_is_refused(command, words):
    with pytest.raises(InputError, match=words):
        Claim("x", "text", "source", "bounds", lambda: "arithmetic", command, lambda args: {})


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["dance"], "no claim 'dance'"),
        (["vae-psnr"], "weights are not in the box"),
        (["vae-psnr", "--model", "nano"], "needs --video"),
        (["vae-psnr", "--model", "nano", "--video", "none.mp4"], "'none.mp4' does not exist"),
        (["vbench-total"], "--quality and --semantic"),
        (["suv-speed", "--frames", "10"], "num_frames = 10"),
        (["suv-speed", "--repeats", "0"], "--repeats 0"),
        (["suv-speed", "--model", "nanoo"], "'nanoo'"),
    ],
)
def test_refused(capsys, arguments, words):
    assert cli.main(["claims", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and not captured.out


def test_autoencoder_at_the_users_shape(user, capsys):
    """A size that the denoiser's patches do not cover is legal; a size for which the clip is too short is not."""
    assert cli.main(["claims", "vae-psnr", *user, "--jit", "off", "--width", "24", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measured"]
    assert found["summary"] == f"{found['psnr_db']:.2f} dB for one clip of 9 x 16 x 24 through tiny"
    assert cli.main(["claims", "vae-psnr", *user, "--frames", "17"]) == 2
    assert "the video has 9" in capsys.readouterr().err


def test_every_claim_can_have_a_receipt(user, capsys, monkeypatch, tmp_path):
    """The list shows what benchmarks/claims.py writes, also for a claim that needs weights and a video."""
    receipt, benchmark = module("receipt"), module("claims")
    monkeypatch.setattr(receipt, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(claims, "RECEIPTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["claims.py", "vae-psnr", *user, "--jit", "off"])
    benchmark.main()
    capsys.readouterr()
    assert "dB for one clip of 9 x 16 x 16 through tiny" in listed([], capsys)["vae-psnr"]["receipt"]
    content = json.loads((tmp_path / "results/claim_vae_psnr.json").read_text())
    assert content["model"] == "tiny" and content["video"] == "own.mp4"  # contains no folder of this machine


def test_receipt(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "RECEIPTS", tmp_path)
    assert listed([], capsys)["suv-speed"]["receipt"] == "not measured"
    (tmp_path / "claim_suv_speed.json").write_text(
        json.dumps({"summary": "33 % less time", "date": "2025-01-01", "machine": {"processor": "Z80"}})
    )
    assert listed([], capsys)["suv-speed"]["receipt"] == "33 % less time (2025-01-01, Z80)"
