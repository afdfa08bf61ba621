"""Manifests of a tiny random model are complete and correct, and reproduce the same bytes."""

import functools
import hashlib
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image
from safetensors.numpy import load_file, save_file

from mindsora import cli, manifest
from mindsora.audit.diff import differences
from mindsora.errors import InputError
from mindsora.kernels.choice import OPERATORS
from mindsora.media import read_video

EAGER = ("--steps", "1", "--jit", "off", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A picture and its manifest."""
    folder = tmp_path_factory.mktemp("made")
    options = ["--model", str(model), "--output", str(folder / "cat.png"), "--seed", "3", "--negative-prompt", "fog"]
    assert cli.main(["generate", "a red cat", *options, *EAGER]) == 0
    return folder / "cat.png.json"


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder with copies of both."""
    for name in ("cat.png", "cat.png.json"):
        shutil.copy(made.parent / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: str, change) -> None:
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


def test_content(model, made):
    told = json.loads(made.read_text())
    assert told["format"] == "mindsora manifest 1" and told["file"] == "cat.png"
    assert told["request"] == {
        "model": str(model),
        "prompt": "a red cat",
        "negative_prompt": "fog",
        "seed": 3,
        "num_frames": 1,
        "height": 32,
        "width": 48,
        "num_inference_steps": 1,
        "guidance_scale": 3.0,
        "guidance_rescale": 0.7,
        "dtype": None,
    }
    assert told["run"]["command"].startswith("mindsora generate 'a red cat' --model") and told["run"]["date"].endswith(
        "+00:00"
    )
    assert (told["run"]["prompts"], told["run"]["prompt_number"], told["run"]["seeds"]) == (1, 0, [3])
    assert "a red cat" in told["text"]["positive"] and "fog" in told["text"]["negative"]
    assert told["shapes"] == {"frames": [1, 32, 48, 3], "fps": 8, "latents": [4, 1, 4, 6], "tokens": 6}
    stack = told["stack"]
    assert stack["versions"]["mindspore"].startswith("2.10") and len(stack["versions"]["mindsora_source"]) == 64
    assert stack["device"]["name"] == "CPU" and stack["runtime"]["jit"] == "off"
    assert set(stack["dtypes"].values()) == {"float32"}
    assert stack["kernels"].keys() == stack["dtypes"].keys() and stack["kernels"]["vae"]["conv3d"] == "cpu"
    pixels = np.asarray(Image.open(made.parent / "cat.png").convert("RGB"))
    assert told["result"]["frames_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert told["result"]["file_sha256"] == hashlib.sha256((made.parent / "cat.png").read_bytes()).hexdigest()
    assert {"load", "encode_prompt", "denoise", "decode", "write"} <= told["cost"]["seconds"].keys()
    assert told["cost"]["peak_memory_bytes"]["host"] > 1e8


def test_every_file_of_the_model_has_its_checksum(model, made):
    told = json.loads(made.read_text())["stack"]["weights"]
    expected = {
        path.relative_to(model).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in model.rglob("*")
        if path.is_file()
    }
    assert told == expected
    assert sum(name.endswith(".safetensors") for name in told) == 4


def test_rerun_is_identical(here, capsys):
    assert cli.main(["rerun", "cat.png.json", "--output", "again.png", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("identical: frames sha256 ") and "stack" not in out
    assert Path("again.png").read_bytes() == Path("cat.png").read_bytes()
    assert cli.main(["rerun", "cat.png.json", "--quiet"]) == 0  # keeps nothing
    assert {path.name for path in here.iterdir()} == {"cat.png", "cat.png.json", "again.png", "again.png.json"}
    capsys.readouterr()
    first, again = manifest.read("cat.png.json"), manifest.read("again.png.json")
    assert cli.main(["diff", "cat.png.json", "again.png.json"]) == 0
    assert again["file"] == "again.png" and again["run"]["command"].startswith("mindsora rerun cat.png.json")
    assert again["run"]["rerun_of"] == {"file": "cat.png", "run": first["run"]}  # which seeds there were
    assert {"load", "denoise", "decode", "write"} <= again["cost"]["seconds"].keys()


@pytest.mark.parametrize("output", ["cat.png", "new/../cat.png", "link.png", "renamed.png"])
def test_rerun_does_not_replace_what_it_compares_with(here, capsys, output):
    Path("new").mkdir()
    Path("link.png").symlink_to("cat.png")
    shutil.copy("cat.png.json", "renamed.png.json")
    before = {path: path.read_bytes() for path in here.iterdir() if path.is_file()}
    told = "renamed.png.json" if output == "renamed.png" else "cat.png.json"
    assert cli.main(["rerun", told, "--output", output]) == 2
    error = capsys.readouterr().err
    assert f"--output {output!r}" in error and "'cat-again.png'" in error
    assert {path: path.read_bytes() for path in here.iterdir() if path.is_file()} == before


class Watched:
    """A module that says when one of its functions is called for."""

    def __init__(self, module, say):
        self.module, self.say = module, say

    def __getattr__(self, name):
        value = getattr(self.module, name)
        if callable(value):
            self.say()
        return value


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["v1.5", "v1.3"])
def test_operators_are_those_that_ran(tmp_path, monkeypatch, kind, dtype):
    """Every operator's implementation, by the modules that were called while a clip was made in this dtype."""
    write = tiny_pipeline.write if kind == "v1.5" else lambda folder: tiny_pipeline.write_v1_3(folder, "t2v")
    model, ran = write(tmp_path / "model"), set()
    packages = {name: importlib.import_module(f"mindsora.kernels.{name}") for name in OPERATORS}
    for name, package in packages.items():
        for form in ("cpu", "reference"):
            watched = Watched(getattr(package, form), functools.partial(ran.add, (name, form)))
            monkeypatch.setattr(package, form, watched)
    options = ["--model", str(model), "--output", str(tmp_path / "a.png"), "--dtype", dtype]
    assert cli.main(["generate", "a red cat", *options, *EAGER]) == 0
    told = manifest.read(tmp_path / "a.png.json")["stack"]["kernels"]
    assert ran == {pair for part in told.values() for pair in part.items()}
    assert (("gelu", "reference") in ran) == (dtype == "float16")


@pytest.mark.parametrize("become", ["changed", "missing"])
def test_rerun_says_what_has_become_of_the_file(here, capsys, become):
    (here / "cat.png").unlink()
    if become == "changed":
        (here / "cat.png").write_bytes(b"another picture")
    assert cli.main(["rerun", "cat.png.json", "--quiet"]) == 1
    told = capsys.readouterr().out
    assert f"the file of cat.png.json is {become}" in told and "identical: frames sha256" in told


def test_rerun_of_something_else_is_seen(here, capsys):
    """Another prompt than the manifest's frames came from: same stack, other frames, and how far they are apart."""
    edit("cat.png.json", lambda told: told["request"].update(seed=4))
    assert cli.main(["rerun", "cat.png.json", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "not identical: on the same stack; PSNR " in out and "100" not in out.split("PSNR")[1].split("(")[0]


def test_rerun_with_other_weights_names_them(here, model, capsys):
    other = shutil.copytree(model, here / "other")
    file = other / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.weight"] *= 1.5
    save_file(tensors, file)
    assert cli.main(["rerun", "cat.png.json", "--model", str(other), "--quiet"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stack.weights.vae/diffusion_pytorch_model.safetensors: ")
    assert lines[1].startswith("not identical: the stack differs as listed; PSNR ") and len(lines) == 2


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda told: told.update(format="mindsora manifest 9"), ["manifest 9", "no manifest"]),
        (lambda told: told["request"].pop("seed"), ["request.seed", "missing"]),
        (lambda told: told["request"].update(seed="3"), ["request.seed", "'3'"]),
        (lambda told: told["request"].update(sead=3), ["'sead'"]),
        (lambda told: told["request"].update(height=33), ["height = 33", "32 or 48"]),
        (lambda told: told["request"].update(model="nanoo"), ["'nanoo'"]),
        (lambda told: told["stack"].pop("runtime"), ["stack.runtime"]),
        (lambda told: told["stack"]["runtime"].update(jit="O3"), ["jit 'O3'"]),
        (lambda told: told["stack"]["runtime"].update(jitt="O0"), ["'jitt'"]),
        (lambda told: told["stack"]["device"].update(name="TPU"), ["'TPU'"]),
        (lambda told: told.update(clips=["cat.png"]), ["contact sheet", "cat.png.json"]),
        (lambda told: told.pop("file"), ["file is 'missing'", "such as 'cat.png'"]),
        (lambda told: told.update(file=""), ["file is ''"]),
        (lambda told: told.update(file=5), ["file is 5"]),
        (lambda told: told.update(file="../cat.png"), ["file is '../cat.png'"]),
    ],
    ids=range(15),
)
def test_bad_manifests(here, capsys, change, words):
    edit("cat.png.json", change)
    before = set(here.iterdir())
    assert cli.main(["rerun", "cat.png.json", "--output", "again.png"]) == 2
    captured = capsys.readouterr()
    assert not captured.out and set(here.iterdir()) == before
    assert all(word in captured.err for word in words), captured.err
    if "file is" in words[0]:
        assert cli.main(["diff", "cat.png.json", "cat.png.json"]) == 2


def test_rerun_needs_a_manifest(here, capsys):
    for name in ("none.json", "cat.png"):
        assert cli.main(["rerun", name]) == 2
        assert name in capsys.readouterr().err


def test_diff(here, model, capsys):
    assert cli.main(["diff", "cat.png.json", "cat.png.json"]) == 0
    assert "are the same" in capsys.readouterr().out
    options = ["--model", str(model), "--output", "fog.png", "--seed", "3", "--width", "32"]
    assert cli.main(["generate", "fog", *options, *EAGER]) == 0
    capsys.readouterr()
    assert cli.main(["diff", "cat.png.json", "fog.png.json"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "request.prompt: a red cat | fog" in lines and "request.width: 48 | 32" in lines
    assert any(line.startswith("result.frames_sha256: ") for line in lines)
    assert any("different shapes" in line for line in lines)
    assert not any(line.startswith("stack") for line in lines)


def test_differences():
    a = {"x": 1, "y": {"z": [1, 2], "w": 0}, "only": None}
    assert differences(a, a) == []
    assert differences(a, {"x": 2, "y": {"z": [1, 3], "w": 0}, "new": 5}) == [
        "x: 1 | 2",
        "y.z: [1, 2] | [1, 3]",
        "new: None | 5",
    ]


def test_seeds_cannot_be_picked_in_secret(model, tmp_path, monkeypatch, capsys):
    """--seeds writes every clip and a sheet with all seeds; every manifest records that its clip is one of them."""
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "a red cat", "--model", str(model), "--output", "cat.png", "--height", "16"]
    assert cli.main([*arguments, "--seeds", "2-4", *EAGER]) == 0
    clips = [f"cat-000-{seed}.png" for seed in (2, 3, 4)]
    expected = {name + end for name in (*clips, "cat-seeds.png") for end in ("", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == expected
    told = manifest.read("cat-000-3.png.json")
    assert told["run"]["seeds"] == [2, 3, 4] and told["request"]["seed"] == 3
    assert told["run"]["contact_sheet"] == "cat-seeds.png"
    assert json.loads(Path("cat-seeds.png.json").read_text())["clips"] == clips
    with pytest.raises(InputError, match="contact sheet.*cat-000-2.png.json"):
        manifest.read("cat-seeds.png.json")
    for options, words in (
        (["--seeds", "4-2"], "must go up"),
        (["--seeds", "1-"], "0-7"),
        (["--seeds", "0-9999"], "1000"),
        (["--seeds", "0-1", "--seed", "3"], "either --seed or --seeds"),
    ):
        assert cli.main([*arguments, *options]) == 2
        assert words in capsys.readouterr().err


def test_tiles(model, tmp_path, monkeypatch, capsys):
    """They change the picture, so a rerun needs them too."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "fog", "--model", str(model), "--output", "fog.png", "--tile", "16", *EAGER]) == 0
    assert manifest.read("fog.png.json")["request"]["tile"] == 16
    assert cli.main(["rerun", "fog.png.json", "--quiet"]) == 0
    edit("fog.png.json", lambda told: told["request"].pop("tile"))
    assert cli.main(["rerun", "fog.png.json", "--quiet"]) == 1


def test_solver(model, tmp_path, monkeypatch, capsys):
    """It changes the picture, so a rerun needs it too; in any case. Of four steps the third is of second order."""
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(model), "--output", "fog.png", "--solver", "DPMpp_2M", *EAGER, "--steps", "4"]
    assert cli.main(["generate", "fog", *options]) == 0
    assert manifest.read("fog.png.json")["request"]["solver"] == "dpmpp_2m"
    assert cli.main(["rerun", "fog.png.json", "--quiet"]) == 0
    edit("fog.png.json", lambda told: told["request"].pop("solver"))
    assert cli.main(["rerun", "fog.png.json", "--quiet"]) == 1
    edit("fog.png.json", lambda told: told["request"].update(solver="heun"))
    assert cli.main(["rerun", "fog.png.json", "--quiet"]) == 2
    assert "solver = 'heun': must be dpmpp_2m" in capsys.readouterr().err


def test_video(model, tmp_path, monkeypatch, capsys):
    """An mp4 is lossy: the checksum is of the frames before encoding, and a rerun reproduces it."""
    monkeypatch.chdir(tmp_path)
    size = ["--num-frames", "9", "--height", "16", "--width", "16"]
    assert cli.main(["generate", "fog", "--model", str(model), "--output", "fog.mp4", *size, *EAGER]) == 0
    told = manifest.read("fog.mp4.json")
    assert told["shapes"]["frames"] == [9, 16, 16, 3] and "compile" not in told["cost"]["seconds"]
    frames = read_video("fog.mp4")[0]
    assert hashlib.sha256(frames).hexdigest() != told["result"]["frames_sha256"]
    assert cli.main(["rerun", "fog.mp4.json", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("identical")
