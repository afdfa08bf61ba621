"""Text from outside reaches the terminal in one short printable line, through every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindsora import cli
from mindsora.audit.diff import LONGEST, differences
from mindsora.data.annotations import read_records
from mindsora.errors import InputError
from mindsora.media import read_video
from mindsora.text.tokenizers import T5Tokenizer

ODD = "\x1b]0;owned\x07\u202e\r\x9b31m"  # sets a terminal's title, turns the direction of writing, moves the cursor
ENDLESS = 20_000 * "x"


def printable(text: str) -> bool:
    return all(line.isprintable() and len(line) <= 5000 for line in text.split("\n"))


def manifest(**changes) -> dict:
    request = {
        "model": "nano", "prompt": "fog", "negative_prompt": "", "seed": 0, "num_frames": 1, "height": 32, "width": 32,
        "num_inference_steps": 1, "guidance_scale": 3.0, "guidance_rescale": 0.0, "dtype": None,
    }  # fmt: skip
    stack = {"runtime": {"jit": "off"}, "device": {"name": "CPU"}}
    return {
        "format": "mindsora manifest 1",
        "file": "a.png",
        "request": request,
        "stack": stack,
        "result": {},
    } | changes


def commands(odd: str, folder: Path) -> dict[str, list[str]]:
    """Calls, each with foreign text in one place."""
    name = odd.replace("/", "")[:200]
    files = {
        "key.json": {odd: 1} | manifest(),
        "unknown.json": manifest(request=manifest()["request"] | {odd: 1}),
        "value.json": manifest(request=manifest()["request"] | {"seed": odd}),
        "format.json": manifest(format=odd),
        "file.json": manifest(file=f"/{odd}"),
        "clips.json": manifest(clips=[odd]),
        "model.json": manifest(request=manifest()["request"] | {"model": odd}),
        "jit.json": manifest(stack={"runtime": {"jit": odd}, "device": {"name": odd}}),
        "prompt.json": manifest(request=manifest()["request"] | {"prompt": odd}, result={odd: odd}),
        "long.json": manifest(request=manifest()["request"] | {"long_video": {"prompts": odd}}),
        "given.json": manifest(request=manifest()["request"] | {"given": {odd: odd}}),
        "same.json": manifest(),
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "config.yaml").write_text(json.dumps({odd: 1}))
    (folder / "recipe.yaml").write_text(json.dumps({"task": "vae", odd: 1}))
    (folder / "task.yaml").write_text(json.dumps({"task": odd}))
    (folder / "jit.yaml").write_text(json.dumps({"jit": odd}))
    (folder / "index").mkdir(exist_ok=True)
    (folder / "index" / "model_index.json").write_text(json.dumps({odd: odd}))
    save_file({odd: np.zeros(1, np.float32)}, folder / "odd.safetensors")
    calls = {file: ["rerun", file] for file in files if file not in ("same.json", "key.json", "prompt.json")}
    return calls | {
        "diff": ["diff", "same.json", "prompt.json"],
        "command": [name],
        "generate model": ["generate", "fog", "--output", "a.png", "--model", odd],
        "generate folder": ["generate", "fog", "--output", "a.png", "--model", "index"],
        "generate suffix": ["generate", "fog", "--output", f"a.{name}"],
        "generate option": ["generate", "fog", f"--{name}", "1"],
        "generate steps": ["generate", "fog", "--output", "a.png", "--steps", odd],
        "generate seed": ["generate", "fog", "--output", "a.png", "--seed", odd],
        "generate dtype": ["generate", "fog", "--output", "a.png", "--dtype", odd],
        "generate prompts": ["generate", "--prompt-file", name, "--output", "a.png"],
        "generate config": ["generate", "fog", "--output", "a.png", "--config", "config.yaml"],
        "generate config value": ["generate", "fog", "--output", "a.png", "--config", "jit.yaml"],
        "generate cache": ["generate", "fog", "--output", "a.png", "--max-device-memory", odd],
        "generate image": ["generate", "fog", "--output", "a.mp4", "--model", "nano_i2v", "--image", name],
        "generate video": ["generate", "fog", "--output", "a.mp4", "--model", "nano_i2v", "--video", name],
        "train": ["train", "recipe.yaml"],
        "train task": ["train", "task.yaml"],
        "train override": ["train", "recipe.yaml", f"run.{name}=1"],
        "train none": ["train", name],
        "inspect": ["inspect", "odd.safetensors"],
        "inspect none": ["inspect", name],
        "convert": ["convert", "odd.safetensors", "out.ckpt"],
        "verify": ["verify", "odd.safetensors", name],
        "reconstruct": ["reconstruct", name, "--output", "r.mp4"],
        "plan": ["plan", "--model", odd],
        "claims": ["claims", odd],
        "evaluate": ["evaluate", odd, "--output", "e"],
    }


@pytest.mark.parametrize("odd", [ODD, ENDLESS], ids=["control", "endless"])
def test_every_command_prints_short_printable_lines(odd, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, argv in commands(odd, tmp_path).items():
        status = cli.main(argv)
        out, err = capsys.readouterr()
        assert status in (1, 2), name
        assert printable(out) and printable(err), (name, out[:300], err[:300])
        lines = [line for line in err.splitlines() if not line.startswith("runtime: ")]
        assert name.startswith(("diff", "inspect", "verify")) or len(lines) == 1, (name, err)


def test_a_name_that_is_too_long_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    long = 5000 * "x"
    clip = ["generate", "fog", "--output", "a.mp4"]
    for argv in (
        ["inspect", long],
        ["convert", long, "a.pt"],
        ["convert", "a.pt", f"{long}.pt"],
        ["rerun", long],
        ["train", long],
        ["reconstruct", long],
        ["assemble", "v1.3", "--from", long],
        ["generate", "fog", "--output", f"{long}.mp4"],
        [*clip, "--contact-sheet", f"{long}.png"],
        [*clip, "--model", long],
        [*clip, "--model", "nano_i2v", "--image", f"{long}.png"],
        [*clip, "--model", "nano_i2v", "--video", f"{long}.mp4"],
    ):
        assert cli.main(argv) == 2, argv[:2]
        assert capsys.readouterr().err.count("\n") == 1
    for read in (
        read_video,
        lambda name: list(read_records(f"{name}.json")),
        lambda name: T5Tokenizer.from_folder(name, 9),
    ):
        with pytest.raises(InputError):
            read(long)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_differences_escape_names_and_values():
    (line,) = differences({ODD: "a"}, {ODD: ODD + ENDLESS})
    assert (
        line.isprintable()
        and len(line) < 2 * LONGEST
        and line.startswith("\\x1b]0;owned\\x07\\u202e: a | ".replace("\\u202e", "\\u202e\\r\\x9b31m"))
    )


def shell(command: str, **variables) -> subprocess.CompletedProcess:
    mindsora = f"'{sys.executable}' -m mindsora.cli"
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])} | variables
    return subprocess.run(
        ["bash", "-c", command.replace("mindsora", mindsora, 1)], capture_output=True, env=environment, timeout=120
    )


@pytest.mark.full
@pytest.mark.parametrize(
    "command, status, line",
    [
        ("mindsora models --all > /dev/full", 2, "cannot write to standard output: its disk is full"),
        (r"mindsora generate $'a \xff cat' --output a.png", 2, r"argument 'a \udcff cat' is no text in this locale"),
        (r"mindsora rerun $'\xed\xa0\x80.json'", 2, "is no text in this locale"),
    ],
)
def test_one_line_from_a_shell(command, status, line):
    done = shell(command)
    error = done.stderr.decode()
    assert done.returncode == status and line in error and error.count("\n") == 1, error


@pytest.mark.full
def test_a_locale_without_the_characters():
    """In the C locale, without Python's switch to UTF-8, names are escaped and no traceback appears."""
    done = shell("mindsora models --all", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0 and not done.stderr and done.stdout.isascii()
    done = shell("mindsora generate 'caf\u00e9' --output a.png", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2 and b"export LC_ALL=C.UTF-8" in done.stderr and done.stderr.count(b"\n") == 1
