"""Malformed manifests: each gives one clear error before a model is loaded or a device is set."""

import json

import pytest
from test_foreign_text import manifest

from mindsora.audit.rerun import rerun
from mindsora.errors import InputError
from mindsora.manifest import read
from mindsora.runtime import Runtime

BIG = 10**30
DEEP = json.loads(50 * '{"a":' + "1" + 50 * "}")
ODD = [None, True, -1, BIG, 1.5, "x", "", 10_000 * "x", "\x1b[31m", [], [1], {}, {"a": 1}, DEEP]
# The values of ODD that each part accepts.
LEGAL = {
    "file": ["x", "\x1b[31m"],
    "request.prompt": ["x", "\x1b[31m"],
    "request.negative_prompt": ["x", "", 10_000 * "x", "\x1b[31m"],
    "request.guidance_scale": [1.5, BIG],
    "request.guidance_rescale": [],
    "request.dtype": [None, "x", "", 10_000 * "x", "\x1b[31m", {}],  # the pipeline knows the names
    "request.given": [{}],
    "request.lora": [[]],
    "result": [{}, {"a": 1}, DEEP],
    "stack.runtime": [{}],
    "stack.device": [{}, {"a": 1}, DEEP],
    "stack.runtime.device_id": [None],
    "stack.runtime.max_device_memory": [None],
    "stack.runtime.deterministic": [True],
    "stack.device.name": [None],
}
PARTS = [
    "format", "file", "clips", "request", "stack", "result", "stack.runtime", "stack.device", "stack.device.name",
    *[f"request.{name}" for name in manifest()["request"]], "request.given", "request.long_video", "request.tile",
    "request.lora",
    *[f"stack.runtime.{name}" for name in ("jit", "deterministic", "device_id", "max_device_memory")],
    "request.unknown", "stack.runtime.unknown",
]  # fmt: skip


class Reached(Exception):
    """The manifest has been accepted."""


@pytest.fixture
def reached(monkeypatch):
    def stop(policy):
        raise Reached

    monkeypatch.setattr(Runtime, "apply", stop)


def changed(part: str, value) -> dict:
    content = manifest()
    *outer, last = part.split(".")
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return content


def outcome(path) -> str:
    """The message, or "" where the manifest is accepted."""
    try:
        rerun(str(path), quiet=True)
    except Reached:
        return ""
    except InputError as error:
        return str(error)
    raise AssertionError("it was rerun")


def test_the_manifest_itself_is_accepted(tmp_path, reached):
    (tmp_path / "a.json").write_text(json.dumps(manifest()))
    assert outcome(tmp_path / "a.json") == ""


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_another_kind(part, tmp_path, reached):
    path = tmp_path / "a.json"
    for value in ODD:
        path.write_text(json.dumps(changed(part, value)))
        message = outcome(path)
        legal = any(value is one or (type(value) is type(one) and value == one) for one in LEGAL.get(part, []))
        assert (message == "") == legal, (part, value, message)
        assert len(message) < 1500 and message.isprintable(), message


@pytest.mark.parametrize(
    "change, words",
    [
        (("clips", 5), "belongs to a contact sheet"),
        (("file", 10_000 * "x"), "file is 'xxx"),
        (("request.seed", True), "request.seed is True, not of type int"),
        (("stack.runtime.max_device_memory", "99999999999999999GB"), "must be a number up to 10000 and GB"),
        (("stack.runtime.max_device_memory", "0GB"), "must be a number up to 10000 and GB"),
        (("stack.runtime.device_id", BIG), "from 0 to 1023"),
        (("request.long_video", {"prompts": "abc", "duration": 1, "overlap": 1, "noise_strength": 0}), "long_video"),
        (("request.given", {"images": [["a.png"]]}), "images"),
    ],
)
def test_what_the_message_says(change, words, tmp_path, reached):
    (tmp_path / "a.json").write_text(json.dumps(changed(*change)))
    assert words in outcome(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "null", '{"a": NaN}', 5000 * '{"a":', 5000 * "[" + 5000 * "]", "\ufeff{}"]
)
def test_what_is_no_json_object(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError):
        read(tmp_path / "a.json")


def test_nesting_is_bounded(tmp_path):
    """The standard library's parser accepts thousands of levels; code that walks the values would fail on them."""
    (tmp_path / "a.json").write_text(json.dumps(manifest(run=json.loads(500 * "[" + 500 * "]"))))
    with pytest.raises(InputError, match="nested more than 100 deep"):
        read(tmp_path / "a.json")
