"""The command line on a tiny random model: what it writes, and one line with status 2 for everything it refuses."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image

from mindsora import cli
from mindsora.files import cache_folder
from mindsora.media import read_video

ROOT = Path(__file__).parents[1]
ONE_STEP = ("--steps", "1")
EAGER = (*ONE_STEP, "--jit", "off")  # a single step costs less than compiling it


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def media(folder: Path) -> set[str]:
    """The files without the manifests; every video and picture has a manifest beside it."""
    manifests = {name for name in files(folder) if name.endswith((".mp4.json", ".png.json"))}
    found = files(folder) - manifests
    assert manifests == {f"{name}.json" for name in found if name.endswith((".mp4", ".png"))}
    return found


def test_video(model, here, capsys):
    assert cli.main(["generate", "a red cat", "--model", model, "--output", "out/cat.mp4", *ONE_STEP]) == 0
    captured = capsys.readouterr()
    assert captured.out == "out/cat.mp4\n"
    assert all(f"compiled {what} in" in captured.err for what in ("the text encoders", "the denoiser", "the decoder"))
    frames, fps = read_video("out/cat.mp4")
    assert frames.shape == (9, 32, 48, 3) and fps == 8
    assert media(here) == {"out/cat.mp4"}
    seconds = json.loads(Path("out/cat.mp4.json").read_text())["cost"]["seconds"]
    assert 0 < seconds["compile"] < seconds["encode_prompt"] + seconds["denoise"] + seconds["decode"]


def test_picture_and_options_before_the_prompt(model, here, capsys):
    options = ["--seed", "3", "--quiet", "--height", "48", "--guidance-scale", "1", *EAGER]
    assert cli.main(["generate", "--model", model, "--output", "cat.png", *options, "a red cat"]) == 0
    assert Image.open("cat.png").size == (48, 48)
    assert "loaded" not in (err := capsys.readouterr().err) and "it/s" not in err


def test_prompts_seeds_and_contact_sheet(model, here, capsys):
    Path("prompts.txt").write_text("a red cat\n\n  fog  \n")
    arguments = [
        "generate",
        "--prompt-file",
        "prompts.txt",
        "--model",
        model,
        "--output",
        "v.mp4",
        "--seed",
        "4,5",
        "--contact-sheet",
        "sheet.png",
        *EAGER,
    ]
    assert cli.main(arguments) == 0
    assert media(here) == {"prompts.txt", "sheet.png", "v-000-4.mp4", "v-000-5.mp4", "v-001-4.mp4", "v-001-5.mp4"}
    first = {name: (here / name).read_bytes() for name in media(here)}
    assert cli.main(arguments) == 0  # again: the same bytes
    assert {name: (here / name).read_bytes() for name in media(here)} == first
    # A clip generated among many equals the same clip generated alone.
    assert cli.main(["generate", "fog", "--model", model, "--output", "fog.mp4", "--seed", "5", *EAGER]) == 0
    assert Path("fog.mp4").read_bytes() == first["v-001-5.mp4"]


def test_frames_are_never_held_together(model, here, monkeypatch):
    """Between decoder and file at most two pieces exist at once, however long the clip."""
    from mindsora import TextToVideoPipeline, media
    from mindsora.models import WFVAE

    long = Path(shutil.copytree(model, "long"))
    index = json.loads((long / "model_index.json").read_text()) | {"max_frames": 121}
    (long / "model_index.json").write_text(json.dumps(index))
    alive, most = defaultdict(WeakValueDictionary), Counter()

    def watch(owner, name, method):
        def met(thing):
            alive[name][id(thing)] = thing
            most[name] = max(most[name], len(alive[name]))
            return thing

        def generator(*arguments, **options):
            for thing in method(*arguments, **options):
                yield met(thing)
                del thing

        watched = generator if inspect.isgeneratorfunction(method) else lambda *arguments: met(method(*arguments))
        monkeypatch.setattr(owner, name, watched)

    watch(WFVAE, "decode_chunks", WFVAE.decode_chunks)
    watch(TextToVideoPipeline, "_pieces", TextToVideoPipeline._pieces)
    watch(media, "to_uint8", media.to_uint8)
    options = ["--model", "long", "--height", "16", "--width", "16", "--quiet", *EAGER]
    for frames in (41, 105):
        assert (
            cli.main(
                [
                    "generate",
                    "fog",
                    "--output",
                    f"{frames}.mp4",
                    "--num-frames",
                    str(frames),
                    *options,
                    "--contact-sheet",
                    f"{frames}.png",
                ]
            )
            == 0
        )
        assert most.keys() == {"decode_chunks", "_pieces", "to_uint8"} and max(most.values()) <= 2, most
    monkeypatch.undo()
    monkeypatch.chdir(here)
    pipe = TextToVideoPipeline.from_pretrained("long", jit="off")
    pipe.set_progress_bar_config(disable=True)
    (clip,) = pipe("fog", num_frames=41, height=16, width=16, num_inference_steps=1).frames
    media.export_to_video(clip, "whole.mp4")
    media.contact_sheet([clip], ["fog"], "whole.png")
    assert Path("whole.mp4").read_bytes() == Path("41.mp4").read_bytes()
    assert Path("whole.png").read_bytes() == Path("41.png").read_bytes()
    told = json.loads(Path("41.mp4.json").read_text())["result"]
    assert told["frames_sha256"] == hashlib.sha256(media.to_uint8(clip).tobytes()).hexdigest()


def test_config_file(model, here, capsys):
    """Options come from a file; the command line overrides them, even when it gives the default."""
    Path("config.yaml").write_text("steps: 1\nheight: 48\nwidth: 64\nseed: [1, 2]\nquiet: true\njit: off\n")
    arguments = ["generate", "fog", "--model", model, "--output", "v.png", "--config", "config.yaml"]
    assert cli.main(arguments) == 0
    assert media(here) == {"config.yaml", "v-000-1.png", "v-000-2.png"}
    assert Image.open("v-000-1.png").size == (64, 48)
    assert cli.main(["generate", "--seed", "0", "--width", "16", *arguments[1:]]) == 0
    assert Image.open("v.png").size == (16, 48)


@pytest.mark.parametrize(
    "content, words",
    [
        ("hieght: 48", ["'hieght'", "'height'"]),
        ("height: 47", ["height = 47"]),
        ("steps: few", ["--steps", "'few'"]),
        ("- height", ["`key: value` lines"]),
        ("height: [", ["not YAML"]),
        (None, ["does not exist"]),
        ("height: null", ["height in config", "leave the key out"]),
        ("seed: [1, [2]]", ["seed in config", "one value or a list of them"]),
        ("a: &x [1]\nheight: *x", ["an alias (*name)"]),
        ("height: ${oc.env:HOME}", ["'${oc.env:HOME}'", "not a reference"]),
        ("offload: 1", ["offload in config", "true or false"]),
        ("height: 48\nheight: 47", ["not YAML", "height"]),
        ('"\\e[31m": 1', ["'\\x1b[31m'"]),
        ("height: " + 300_000 * "4", ["longer than"]),
        ("height: " + 3000 * "[", ["not YAML"]),
    ],
)
def test_bad_config_file(model, here, capsys, content, words):
    if content is not None:
        Path("config.yaml").write_text(content)
    arguments = ["generate", "fog", "--model", model, "--output", "v.mp4", "--config", "config.yaml"]
    line = refused(arguments, here, capsys)
    assert all(word in line for word in words), line


def test_ranks_share_the_prompts(model, here, monkeypatch, capsys):
    """Each rank under msrun takes prompts[rank::world]; the names are those of a single run."""
    Path("prompts.txt").write_text("one\ntwo\nthree\n")
    arguments = [
        "generate",
        "--prompt-file",
        "prompts.txt",
        "--model",
        model,
        "--output",
        "v.png",
        "--device",
        "CPU",
        "--contact-sheet",
        "s.png",
        *EAGER,
    ]
    monkeypatch.setenv("MS_WORKER_NUM", "2")
    monkeypatch.setenv("DEVICE_ID", "1")
    monkeypatch.setenv("RANK_ID", "1")
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    assert cli.main(arguments) == 0
    assert files(here) == {"prompts.txt"}
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    assert cli.main(arguments) == 0
    assert media(here) == {"prompts.txt", "v-001-0.png", "s-rank1.png"}
    assert "loaded" not in (err := capsys.readouterr().err) and "it/s" not in err  # rank 0 alone reports
    monkeypatch.setenv("RANK_ID", "0")
    assert cli.main(arguments) == 0
    assert media(here) == {"prompts.txt", "v-001-0.png", "s-rank1.png", "v-000-0.png", "v-002-0.png", "s-rank0.png"}
    assert "loaded" in (err := capsys.readouterr().err) and "it/s" in err


def test_long_prompt_warns_in_one_line(model, here, capsys):
    words = " ".join(f"number{i}" for i in range(40))
    assert cli.main(["generate", words, "--model", model, "--output", "a.png", "--quiet", *EAGER]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert warnings[0].startswith("mindsora: warning: prompt is over the 40 tokens of T5Tokenizer; cut off: ")
    assert "number39" in warnings[0]


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m mindsora.cli models --all | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_models(capsys):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "v1.5" in out and "8.59" in out and "height a multiple of 16" in out


def test_help_and_version(capsys):
    for arguments in (["--help"], ["--version"], ["generate", "--help"], ["train", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "reconstruct" in out and "mindsora 0." in out and "--contact-sheet" in out


def refused(arguments, here, capsys) -> str:
    """Run, check for status 2 and no written files, and return the single line of the error."""
    before = files(here)
    assert cli.main(arguments) == 2
    assert files(here) == before
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line and not line.startswith("runtime: ")]
    assert len(lines) == 1 and lines[0].startswith("mindsora: error: "), captured.err
    assert not captured.out
    return lines[0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--output", "a.mp4"], ["either a prompt or --prompt-file"]),
        (["a cat", "--prompt-file", "p.txt", "--output", "a.mp4"], ["either a prompt or --prompt-file"]),
        (["--prompt-file", "none.txt", "--output", "a.mp4"], ["none.txt", "does not exist"]),
        (["--prompt-file", "blank.txt", "--output", "a.mp4"], ["blank.txt", "0 prompts"]),
        (["--prompt-file", "binary.txt", "--output", "a.mp4"], ["binary.txt", "UTF-8"]),
        (["", "--output", "a.mp4"], ["prompt is empty"]),
        (["a cat"], ["--output"]),
        (["a cat", "--output", "a.avi"], ["a.avi", ".mp4"]),
        (["a cat", "--output", "a.mp4", "--num-frames", "1"], ["a.mp4", ".png"]),
        (["a cat", "--output", "a.png", "--num-frames", "9"], ["a.png", ".mp4"]),
        (["a cat", "--output", "a.mp4", "--num-frames", "10"], ["num_frames = 10", "9 or 17"]),
        (["a cat", "--output", "a.mp4", "--num-frames", "0"], ["num_frames = 0", "nearest legal: 1"]),
        (["a cat", "--output", "a.mp4", "--height", "33"], ["height = 33", "32 or 48"]),
        (["a cat", "--output", "a.mp4", "--width", "1024"], ["width = 1024", "64"]),
        (["a cat", "--output", "a.mp4", "--steps", "0"], ["num_inference_steps = 0"]),
        (["a cat", "--output", "a.mp4", "--steps", "5000"], ["num_inference_steps = 5000", "1000"]),
        (["a cat", "--output", "a.mp4", "--steps", "many"], ["--steps", "'many'"]),
        (["a cat", "--output", "a.mp4", "--seed", "-1"], ["seed = -1"]),
        (["a cat", "--output", "a.mp4", "--seed", "one"], ["--seed", "'one'", "0,1,2"]),
        (["a cat", "--output", "a.mp4", "--guidance-rescale", "2"], ["guidance_rescale = 2"]),
        (["a cat", "--output", "a.mp4", "--frames", "9"], ["--frames"]),
        (["a cat", "--output", "a.mp4", "--device", "TPU"], ["'TPU'", "Ascend"]),
        (["a cat", "--output", "a.mp4", "--device", "Ascend"], ["Ascend", "--device CPU"]),
        (["a cat", "--output", "a.mp4", "--max-device-memory", "lots"], ["'lots'", "56GB"]),
        (["a cat", "--output", "a.mp4", "--dtype", "bf16"], ["bfloat16", "CPU", "float32"]),
        (["a cat", "--output", "a.mp4", "--dtype", "vae=bf16"], ["bfloat16 for vae"]),
        (["a cat", "--output", "a.mp4", "--dtype", "float8"], ["'float8'"]),
        (["a cat", "--output", "blank.txt/a.mp4"], ["blank.txt/a.mp4"]),
        (["a cat", "--output", "folder.mp4"], ["folder.mp4", "folder"]),
        (["a cat", "--output", "/proc/a/b.mp4"], ["/proc/a/b.mp4"]),
        (["a cat", "--output", "a.mp4", "--contact-sheet", "s.jpg"], ["s.jpg", ".png"]),
        (["a cat", "--output", "a.png", "--contact-sheet", "a.png"], ["'a.png'", "replace a clip", "a-sheet.png"]),
        (
            ["a cat", "--output", "a.png", "--seeds", "0-1", "--contact-sheet", "./a-000-1.png"],
            ["a-000-1.png", "replace"],
        ),
        (["a cat", "--output", "a.mp4", "--guidance-scale", "-1"], ["guidance_scale = -1", "nearest legal: 0"]),
        (["a cat", "--output", "a.mp4", "--guidance-scale", "nan"], ["guidance_scale = nan", "nearest legal: 3"]),
        (["a cat", "--output", "a.mp4", "--compile-cache", "blank.txt"], ["blank.txt", "File exists"]),
        (["a cat", "--output", "a.mp4", "--model", "nanoo"], ["'nanoo'"]),
        (["a cat", "--output", "a.mp4", "--model", "v1_5"], ["'v1_5'", "not in the box"]),
        (
            ["a cat", "--output", "a.mp4", "--image", "a.png"],
            ["--image 'a.png'", "SUV takes text alone", "nano_i2v or v1.3_i2v"],
        ),
        (["a cat", "--output", "a.mp4", "--model", "empty"], ["empty", "model_index.json"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_bad_generate(model, here, capsys, arguments, words):
    Path("blank.txt").write_text("\n \n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("folder.mp4").mkdir()
    Path("empty").mkdir()
    model_option = [] if "--model" in arguments else ["--model", model]
    line = refused(["generate", *arguments, *model_option], here, capsys)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["paint"], ["'paint'", "generate, reconstruct, models, ", "train"]),
        (["--colour"], ["command"]),
        (["models", "all"], ["all"]),
        (["train", "none.yaml"], ["none.yaml"]),
        (["reconstruct", "none.mp4", "--output", "r.mp4"], ["none.mp4"]),
    ],
)
def test_bad_commands(here, capsys, model, arguments, words):
    line = refused(arguments + (["--model", model] if arguments[0] == "reconstruct" else []), here, capsys)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("transformer/diffusion_pytorch_model.safetensors", None, ["transformer", "one weight file"]),
        ("vae/diffusion_pytorch_model.safetensors", "short", ["vae/diffusion", "neither a whole safetensors"]),
        (
            "vae/config.json",
            json.dumps({"latent_dimm": 4, "norm_type": "layernorm"}),
            ["vae/config.json", "'latent_dimm'"],
        ),
        ("model_index.json", "[]", ["model_index.json", "JSON object"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_model(model, here, capsys, file, content, words):
    broken = Path(shutil.copytree(model, "broken"))
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_text(content)
    line = refused(["generate", "a cat", "--model", "broken", "--output", "a.mp4"], here, capsys)
    for word in words:
        assert word in line


def test_a_scheduler_that_needs_even_steps(model, here, capsys):
    """Refused before anything loads (there are no weights), by `plan` too; by the model's default as well."""
    odd = Path(shutil.copytree(model, "odd"))
    for weights in odd.rglob("*.safetensors"):
        weights.unlink()
    (odd / "scheduler/scheduler_config.json").write_text('{"use_linear_quadratic_schedule": true}')
    generate = ["generate", "a cat", "--model", "odd", "--output", "a.mp4"]
    for command in (generate, ["plan", "--model", "odd"]):
        line = refused([*command, "--steps", "25"], here, capsys)
        assert "num_inference_steps = 25: " in line and "a multiple of 2" in line and "nearest legal: 24 or 26" in line
    assert cli.main(["plan", "--model", "odd", "--steps", "24"]) == 0
    capsys.readouterr()
    index = json.loads((odd / "model_index.json").read_text()) | {"num_inference_steps": 3}
    (odd / "model_index.json").write_text(json.dumps(index))
    assert "num_inference_steps = 3" in refused(generate, here, capsys)
    (odd / "model_index.json").write_text(json.dumps(index | {"even_steps": False}))
    assert "unknown key 'even_steps'" in refused(generate, here, capsys)


def test_as_a_program(model, tmp_path):
    """In a process of its own: status, one line, no traceback, and the runtime's settings said once."""
    command = [sys.executable, "-m", "mindsora.cli", "generate", "a red cat", "--model", model, *ONE_STEP]
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(*more):
        return subprocess.run([*command, *more], cwd=tmp_path, env=env, capture_output=True, text=True)

    bad = start("--output", "a.mp4", "--num-frames", "12")
    assert (bad.returncode, bad.stdout) == (2, "") and len(bad.stderr.splitlines()) == 1
    assert not files(tmp_path)
    env["GLOG_v"] = "2"  # MindSpore says when it takes a graph from its cache
    graphs = kept_in_a_cache_of_its_own(env, tmp_path)
    good = start("--output", "a.mp4")
    assert good.returncode == 0 and good.stdout == "a.mp4\n"
    assert good.stderr.count("runtime: MindSpore") == 1
    assert list(graphs.rglob("*.mindir"))
    video, _ = read_video(tmp_path / "a.mp4")
    again = start("--output", "b.mp4")
    assert again.returncode == 0 and again.stderr.count("Use the compilation cache") == 3
    np.testing.assert_array_equal(read_video(tmp_path / "b.mp4")[0], video)
    assert len(list(graphs.iterdir())) == 1


def kept_in_a_cache_of_its_own(env, folder):
    """Move a program's cache, but for its compiled operators; return where it keeps graphs."""
    cache = folder / "cache" / "mindsora"
    cache.mkdir(parents=True)
    (cache / "kernels").symlink_to(cache_folder() / "kernels")
    env["XDG_CACHE_HOME"] = str(cache.parent)
    return cache / "graphs"


def test_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for kind, name, size in (("graphs", "0a/checksums.json", 100_000), ("kernels", "fused-1.so", 300_000)):
        file = tmp_path / "mindsora" / kind / name
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(size))
    (tmp_path / "mindsora" / "models").mkdir()

    def lines(*options):
        assert cli.main(["cache", *options]) == 0
        return [line.split()[:5] for line in capsys.readouterr().out.splitlines()]

    assert lines() == [["graphs", "1", "entries", "0.1", "MB"], ["kernels", "1", "entries", "0.3", "MB"]]
    assert lines("--clear", "graphs") == [["removed", "graphs", "1", "entries", "0.1"]]
    assert lines()[0] == ["graphs", "0", "entries", "0.0", "MB"]
    assert len(lines("--clear", "all")) == 2
    assert [path.name for path in (tmp_path / "mindsora").iterdir()] == ["models"]
    assert cli.main(["cache", "--clear", "models"]) == 2
    assert "graphs" in capsys.readouterr().err
