"""Metrics of autoencoders against scikit-image, SciPy and the numbers of another implementation; protocols; corruptions."""

import json
import random
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from lpips_golden import random_alexnet
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from scipy import linalg
from skimage.metrics import structural_similarity

from mindsora import cli
from mindsora.data.toy.procedural import clip as drawn
from mindsora.errors import InputError
from mindsora.evaluate import autoencoder
from mindsora.evaluate.evaluation import Asked
from mindsora.evaluate.frechet import frechet_distance
from mindsora.evaluate.items import Item
from mindsora.evaluate.measures import Clip, Row
from mindsora.evaluate.networks import Network
from mindsora.evaluate.running import check, evaluate, judge
from mindsora.media import export_to_video, psnr, ssim

GOLDEN = json.loads((Path(__file__).parent / "golden" / "vae_metrics.json").read_text())


def pair(case):
    """The clips of a case, as the note of the golden file says: (T, H, W, 3) in [0, 1]."""
    t, c, h, w = case["shape"]
    grid = np.ogrid[:t, :c, :h, :w]
    clean = ((17 * grid[0] + 31 * grid[1] + 13 * grid[2] + 7 * grid[3]) % 97) / 96
    rng = random.Random(case["seed"])
    noise = np.array([rng.uniform(-1, 1) for _ in range(clean.size)]).reshape(clean.shape)
    spoilt = np.clip(clean + case["noise"] * noise, 0, 1)
    return clean.transpose(0, 2, 3, 1), spoilt.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"seed{case['seed']}")
def test_psnr_and_ssim_of_every_frame(case):
    clean, spoilt = pair(case)
    for frame in range(len(clean)):
        a, b = clean[frame : frame + 1], spoilt[frame : frame + 1]
        assert psnr(a, b) == pytest.approx(case["psnr_per_frame"][frame], rel=1e-6)
        assert ssim(a, b) == pytest.approx(case["ssim_per_frame"][frame], rel=1e-6)


@pytest.mark.parametrize("height, width", [(11, 11), (40, 33)])
def test_ssim_is_scikit_images(height, width):
    rng = np.random.RandomState(0)
    a = rng.rand(2, height, width, 3)
    b = (a + rng.normal(0, 0.1, a.shape)).clip(0, 1)
    values = []
    for x, y in zip(a, b, strict=True):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
        _, full = structural_similarity(x, y, data_range=1, channel_axis=2, full=True, **options)
        values.append(full[5 : height - 5, 5 : width - 5].mean())  # the valid region of the 11 x 11 window
    assert ssim(a, b) == pytest.approx(np.mean(values), rel=1e-6)


@pytest.mark.parametrize("case", GOLDEN["frechet"], ids=["4d", "3d"])
def test_frechet_distance(case):
    assert frechet_distance(case["a"], case["b"]) == pytest.approx(case["frechet"], rel=1e-6)


@pytest.mark.parametrize("rows", [40, 6])  # 6 rows of 9 features: singular covariances
def test_frechet_distance_is_scipys(rows):
    rng = np.random.RandomState(rows)
    a, b = rng.normal(0, 1, (rows, 9)), rng.normal(0.3, 1.5, (rows + 3, 9))
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the same trace from the eigenvalues of the product, which need no square root of a singular matrix
    cross = np.sqrt(linalg.eigvals(s_a @ s_b).real.clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross
    if rows == 40:
        assert np.trace(linalg.sqrtm(s_a @ s_b)).real == pytest.approx(cross, rel=1e-9)
    # a singular product has eigenvalues of rounding, whose roots are 1e-8
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_bad_features():
    for a, b in (
        (np.zeros((1, 3)), np.zeros((4, 3))),
        (np.zeros((4, 3)), np.zeros((4, 2))),
        (np.zeros(3), np.zeros(3)),
    ):
        with pytest.raises(InputError, match="must be"):
            frechet_distance(a, b)


def i3d(path, side=224):
    """A network of I3D's form: the mean colours of the first and the second half of a clip, and of its left half."""
    whole = numpy_helper.from_array(np.array([2, 3, 4], np.int64), "axes")
    width = numpy_helper.from_array(np.array([side // 2, side // 2], np.int64), "halves")
    nodes = [
        helper.make_node("Split", ["video", "halves"], ["left", "right"], axis=4),
        helper.make_node("ReduceMean", ["video", "axes"], ["all"], keepdims=0),
        helper.make_node("ReduceMean", ["left", "axes"], ["half"], keepdims=0),
        helper.make_node("Concat", ["all", "half"], ["logits"], axis=1),
    ]
    video = helper.make_tensor_value_info("video", TensorProto.FLOAT, [1, 3, None, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 6])
    graph = helper.make_graph(nodes, "i3d", [video], [logits], [whole, width])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def judges(tmp_path, monkeypatch):
    save_file(random_alexnet(), tmp_path / "alexnet.safetensors")
    from mindsora.media import lpips_alex

    monkeypatch.setattr(lpips_alex.load_alex, "__defaults__", ("",))  # a random net, whose checksum nobody knows
    return {"lpips": tmp_path / "alexnet.safetensors", "i3d": i3d(tmp_path / "i3d.onnx")}


def pairs(spoil, count=2):
    for number in range(count):
        original = drawn(number, "heldout")[0]
        yield Clip(Item(f"c{number}", ("p",)), spoil(original), reference=original)


def values(judges, spoil):
    measures = autoencoder.measures(judges)
    rows = judge(measures, pairs(spoil))
    (rfvd,) = autoencoder.scores(measures)
    means = {name: np.mean([row.values[name] for row in rows]) for name in ("psnr_db", "ssim", "lpips")}
    return means | {"rfvd": rfvd.of_rows(rows)}


@pytest.mark.full
def test_corruptions_are_told_apart(judges):
    def blurred(video):
        return np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in video])

    def dark(video):
        return (video * 0.8).astype(np.uint8)

    def noisy(video):
        return (video + np.random.RandomState(0).normal(0, 6, video.shape)).clip(0, 255).astype(np.uint8)

    same, blur, dim, noise = (values(judges, spoil) for spoil in (np.copy, blurred, dark, noisy))
    assert same == {"psnr_db": 100, "ssim": 1, "lpips": 0, "rfvd": pytest.approx(0, abs=1e-6)}
    for spoilt in (blur, dim, noise):
        assert spoilt["psnr_db"] < 40 and spoilt["ssim"] < 0.995 and spoilt["lpips"] > 0
    assert dim["rfvd"] > 10 * blur["rfvd"]  # the stand-in for I3D sees mean colours, which blur keeps
    assert noise["ssim"] < blur["ssim"]  # noise breaks flat areas, blur does not


def test_i3d_sees_the_centre_at_224_pixels():
    video = np.zeros((10, 60, 100, 3), np.uint8)
    video[:, :, :18] = video[:, :, 82:] = 255  # cut off by the centre crop, which begins at 20
    x = autoencoder.i3d_input(video)
    assert x.shape == (1, 3, 10, 224, 224) and x.dtype == np.float32
    assert x.min() == x.max() == -1
    assert autoencoder.i3d_input(np.full((10, 300, 224, 3), 255, np.uint8)).min() == 1


def test_rfvd_is_the_distance_of_pooled_features(judges):
    rng = np.random.RandomState(0)
    features = rng.normal(0, 1, (8, 2, 6))
    rows = [Row(Item(f"i{n}", ("p",)), features={"rfvd": pair}) for n, pair in enumerate(features)]
    assert autoencoder.rfvd(rows) == frechet_distance(features[:, 1], features[:, 0])
    assert autoencoder.rfvd(rows[:1]) is None
    assert "below 256" in autoencoder.notes(rows, Asked(Path()))[1]


def test_short_and_small_clips_are_left_out(judges):
    small = Clip(Item("s", ("p",)), np.zeros((5, 8, 24, 3), np.uint8), reference=np.zeros((5, 8, 24, 3), np.uint8))
    (row,) = judge(autoencoder.measures(judges), [small])
    assert row.values == {"psnr_db": 100, "ssim": None, "lpips": None, "rfvd": None}


def test_networks_that_do_not_fit(tmp_path, judges):
    (tmp_path / "no.onnx").write_bytes(b"an error page")
    with pytest.raises(InputError, match="as an ONNX network"):
        Network(tmp_path / "no.onnx", "I3D")
    with pytest.raises(InputError, match="takes 1 arrays; judge flow needs one with 2"):
        Network(judges["i3d"], "flow", 2)
    with pytest.raises(InputError, match=r"judge I3D refuses \(2, 3\)"):
        Network(judges["i3d"], "I3D")(np.zeros((2, 3), np.float32))


def test_refused_requests(tmp_path):
    with pytest.raises(InputError, match="protocol 'own': must be native or paper"):
        autoencoder.protocol_of(Asked(tmp_path, options={"protocol": "own"}))
    with pytest.raises(InputError, match="option 'export' does not belong to autoencoder"):
        check(autoencoder.EVALUATION, Asked(tmp_path, options={"export": "x"}))
    with pytest.raises(InputError, match="judge 'dino' does not belong to autoencoder, which takes lpips, i3d"):
        check(autoencoder.EVALUATION, Asked(tmp_path, judges={"dino": tmp_path}))


@pytest.mark.full
def test_the_command_on_foreign_videos(tmp_path, capsys):
    """Sizes, rates and lengths of anybody; a corrupt file is named; in memory and through the codec differ."""
    videos = tmp_path / "videos"
    videos.mkdir()
    export_to_video(drawn(0, "heldout")[0], videos / "a.mp4", 8)
    export_to_video(drawn(1, "heldout", size=80, frames=20)[0], videos / "b.mp4", 24)
    (videos / "torn.mp4").write_bytes(b"\0" * 100)
    common = ["evaluate", "autoencoder", "--model", "nano_vae_real", "--videos", str(videos), "--device", "CPU"]
    assert cli.main([*common, "--output", str(tmp_path / "m")]) == 1  # not complete
    assert cli.main([*common, "--output", str(tmp_path / "c"), "--through-codec"]) == 1
    memory, codec = (json.loads((tmp_path / name / "report.json").read_text()) for name in "mc")
    assert not memory["complete"] and memory["missing"] == ["lpips", "rfvd"] and list(memory["unreadable"]) == ["torn"]
    assert sorted(path.name for path in (tmp_path / "m/clips").iterdir()) == [
        "a-original.mp4", "a-reconstruction.mp4", "b-original.mp4", "b-reconstruction.mp4",
    ]  # fmt: skip
    scores = [content["scores"]["psnr_db"]["value"] for content in (memory, codec)]
    assert 20 < scores[0] < 60 and 20 < scores[1] < 60 and scores[0] != scores[1]
    assert "compared in memory" in memory["notes"][0] and "after H.264" in codec["notes"][0]
    assert "complete: false" in capsys.readouterr().out


@pytest.mark.full
def test_the_paper_protocol_samples_the_posterior(tmp_path):
    """33 x 256 x 256 after a centre crop; a shorter video is named."""
    videos = tmp_path / "videos"
    videos.mkdir()
    export_to_video(np.repeat(drawn(0, "heldout", size=64, frames=33)[0], 2, axis=2), videos / "long.mp4", 8)
    export_to_video(drawn(0, "heldout")[0], videos / "short.mp4", 8)
    asked = Asked(tmp_path / "out", model="nano_vae_real", videos=videos, options={"protocol": "paper"})
    content = evaluate(autoencoder.EVALUATION, asked)
    assert "33" in content["unreadable"]["short"] and content["scores"]["psnr_db"]["clips"] == 1
    assert "a sample of the posterior" in content["notes"][0]
