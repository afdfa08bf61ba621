"""Readers of foreign text: whatever a file says, they succeed or raise InputError, with a short printable message."""

import json
import string
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_foreign_text import manifest
from test_ranges import CONFIGURATIONS, vars_of

from mindsora import cli, zoo
from mindsora.audit.diff import differences
from mindsora.audit.rerun import clip_of
from mindsora.config import from_dict, read_json, read_yaml
from mindsora.errors import InputError
from mindsora.jobs.planning import read_prompts
from mindsora.manifest import read
from mindsora.models import registry
from mindsora.pipelines.request import Request
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer
from mindsora.train.recipe import load_recipe

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
fuzzed = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROOT = Path(__file__).parents[1]

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just(10**30)
    | st.just(9999 * "x")
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def refused_or_read(reader, *arguments) -> None:
    try:
        reader(*arguments)
    except InputError as error:
        assert len(str(error)) < 4000 and str(error).isprintable(), str(error)[:500]


def edited(content: dict, path: list, value) -> dict:
    """A copy with one value replaced: the one that a path of numbers leads to."""
    content = json.loads(json.dumps(content))
    inner = content
    while path and isinstance(inner, dict) and inner:
        key = list(inner)[path.pop() % len(inner)]
        if not path or not isinstance(inner[key], dict) or not inner[key]:
            inner[key] = value
            break
        inner = inner[key]
    return content


paths = st.lists(st.integers(0, 99), min_size=1, max_size=4)


@fuzzed
@given(st.sampled_from(sorted(CONFIGURATIONS)), st.dictionaries(st.integers(0, 99), values, max_size=3), st.booleans())
def test_configurations(name, changes, extra):
    cls = type(CONFIGURATIONS[name])
    names = [field.name for field in fields(cls) if field.init]
    content = vars_of(name) | {names[key % len(names)]: value for key, value in changes.items()}
    refused_or_read(from_dict, cls, content | ({"\x1b": 1} if extra else {}))


@fuzzed
@given(st.sampled_from([spec.name for spec in registry.specs()]), paths, values)
def test_upstream_configurations(name, path, value):
    spec = registry.spec(name)
    files = list(zoo.CONFIGURATIONS.rglob("config.json")) + list(zoo.BOX.rglob("config.json"))
    own = [file for file in files if (registry.named_upstream(read_json(file).get("_class_name")) or spec) == spec]
    for file in own[:3]:
        refused_or_read(spec.config.from_upstream, edited(read_json(file), list(path), value))


@fuzzed
@given(paths, values)
def test_model_folders(tmp_path, path, value):
    index = read_json(zoo.BOX / "nano" / "model_index.json")
    (tmp_path / "model_index.json").write_text(json.dumps(edited(index, path, value)))
    refused_or_read(zoo.ModelIndex.read, tmp_path)


@fuzzed
@given(paths, values, st.sampled_from(["nano", "nano_i2v"]))
def test_manifests(tmp_path, path, value, model):
    content = manifest()
    content["request"] |= {"long_video": {"prompts": ["a"], "duration": 1, "overlap": 1, "noise_strength": 0}}
    content["request"] |= {"given": {"images": [["a.png", None]], "sha256": {}}}
    (tmp_path / "a.json").write_text(json.dumps(edited(content, path, value)))
    index = zoo.ModelIndex.read(zoo.find(model))

    def reader():
        told = read(tmp_path / "a.json")
        assert all(line.isprintable() for line in differences(content, told))
        clip_of(index, told["request"])

    refused_or_read(reader)


@fuzzed
@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789eE+-.\\unltrf ', max_size=80).map(str.encode))
def test_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    refused_or_read(read_json, tmp_path / "a.json")


@fuzzed
@given(st.binary(max_size=200) | st.text(alphabet="{}[]*&!|>%@`'\"#:,?- \nab01.$", max_size=80).map(str.encode))
def test_yaml(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    refused_or_read(read_yaml, tmp_path / "a.yaml")
    refused_or_read(load_recipe, tmp_path / "a.yaml")


@fuzzed
@given(st.sampled_from(["vae", "denoiser"]), paths, values)
def test_recipes(tmp_path, name, path, value):
    recipe = read_yaml(ROOT / "recipes" / "nano" / f"{name}.yaml")
    (tmp_path / "a.yaml").write_text(json.dumps(edited(recipe, path, value)))
    refused_or_read(load_recipe, tmp_path / "a.yaml")


@fuzzed
@given(
    st.dictionaries(
        st.sampled_from(["height", "seed", "offload", "image", "x"]) | st.text(max_size=5), values, max_size=3
    )
)
def test_option_files(tmp_path, options):
    (tmp_path / "a.yaml").write_text(json.dumps(options))
    known = {"height": None, "seed": None, "offload": False, "image": []}
    refused_or_read(cli._options, str(tmp_path / "a.yaml"), known)


@fuzzed
@given(st.text(max_size=200), st.binary(max_size=100))
def test_prompts(tmp_path, text, content):
    index = zoo.ModelIndex.read(zoo.find("nano"))
    refused_or_read(Request.of, index, text)
    (tmp_path / "prompts.txt").write_bytes(content)
    refused_or_read(read_prompts, tmp_path / "prompts.txt")


@fuzzed
@given(st.text(max_size=300) | st.text(alphabet=string.punctuation + "<|>/s ", max_size=100))
def test_texts_of_tokenisers(text):
    for cls, name in ((T5Tokenizer, "tokenizer"), (CLIPTokenizer, "tokenizer_2")):
        tokenizer = cls.from_folder(zoo.BOX / "nano" / name, 77)
        ids, mask = tokenizer([text])
        assert ids.shape == mask.shape == (1, 77) and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
        assert isinstance(tokenizer.truncated(text), str)


@fuzzed
@given(
    st.integers(0, 10**6), st.binary(max_size=8), st.sampled_from(["vocab.json", "merges.txt", "tokenizer_config.json"])
)
def test_files_of_tokenisers(tmp_path, at, new, name):
    for source in (zoo.BOX / "nano" / "tokenizer_2").iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    content = (tmp_path / name).read_bytes()
    at %= len(content)
    (tmp_path / name).write_bytes(content[:at] + new + content[at + len(new) :])
    refused_or_read(lambda: CLIPTokenizer.from_folder(tmp_path, 77)(["a red fox"]))
    model = bytearray((zoo.BOX / "nano" / "tokenizer" / "spiece.model").read_bytes())
    at %= len(model)
    (tmp_path / "spiece.model").write_bytes(model[:at] + new + model[at + len(new) :])
    refused_or_read(lambda: T5Tokenizer.from_folder(tmp_path, 77)(["a red fox"]))
