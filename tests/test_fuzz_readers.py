"""Readers of foreign files: whatever a file holds, they succeed or raise InputError, with a short printable message.

test_convert_fuzz.py does the same for checkpoints, test_train_resume.py for the states of a training.
"""

import json
import string
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest
from fuzzing import HARM, fuzz, harmed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from test_foreign_text import manifest
from test_ranges import CONFIGURATIONS, vars_of
from test_tokenizers import saved_t5

from mindsora import cli, shipped, zoo
from mindsora.audit.diff import differences
from mindsora.audit.rerun import clip_of
from mindsora.ckpt_convert import open_checkpoint
from mindsora.ckpt_convert.lora import METADATA, read_lora
from mindsora.config import from_dict, read_json, read_yaml
from mindsora.data.annotations import BadRecord, read_merge_file, read_records
from mindsora.data.annotations import clip_of as clip_of_record
from mindsora.errors import InputError
from mindsora.evaluate import inpainting, obedience
from mindsora.jobs.planning import read_prompts
from mindsora.manifest import read
from mindsora.media import read_frames, read_picture, stream_video
from mindsora.media.pictures import FORMATS
from mindsora.models import registry
from mindsora.pipelines.request import Request
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer
from mindsora.train.recipe import load_recipe

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
fuzzed = fuzz(300)
ROOT = Path(__file__).parents[1]

letters = st.characters()  # lone surrogates too, which JSON can hold
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(letters, max_size=20)
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
@given(st.text(letters, max_size=200), st.binary(max_size=100))
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


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    """The tokenizer.json of a T5 and of a CLIP tokeniser."""
    folder = tmp_path_factory.mktemp("tokenizers")
    saved_t5(folder)
    t5 = read_json(folder / "tokenizer.json")
    CLIPTokenizer.from_folder(zoo.BOX / "nano" / "tokenizer_2", 77).tokenizer.save(str(folder / "tokenizer.json"))
    return {T5Tokenizer: t5, CLIPTokenizer: read_json(folder / "tokenizer.json")}


@fuzzed
@given(st.sampled_from([T5Tokenizer, CLIPTokenizer]), paths, values)
def test_tokenizer_json(tokenizer_files, tmp_path, cls, path, value):
    (tmp_path / "tokenizer.json").write_text(json.dumps(edited(tokenizer_files[cls], list(path), value)))
    refused_or_read(lambda: cls.from_folder(tmp_path, 77)(["a red fox", "a \u732b"]))


@fuzzed
@given(paths, values, st.sampled_from([obedience, inpainting]))
def test_prompts_of_evaluations(tmp_path, path, value, module):
    (tmp_path / "a.json").write_text(json.dumps(edited(read_json(module.PROMPTS), list(path), value)))
    refused_or_read(module.read_prompts, tmp_path / "a.json")


@fuzzed
@given(paths, values, st.text(max_size=12))
def test_indices_of_shards(tmp_path, path, value, word):
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    index = {"metadata": {"total_size": 12}, "weight_map": {"w": "a.safetensors"}}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps(edited(index, list(path), value)))
    (tmp_path / "ranks").mkdir(exist_ok=True)
    (tmp_path / "ranks" / "latest_checkpointed_iteration.txt").write_bytes(word.encode())

    def reader(source):
        with open_checkpoint(source):
            pass

    refused_or_read(reader, tmp_path / "a.safetensors.index.json")
    refused_or_read(reader, tmp_path / "ranks")


@fuzzed
@given(paths, values, st.booleans(), st.lists(HARM, max_size=2))
def test_lora_files(tmp_path, path, value, inside, harms):
    """The settings of an adapter in the file's metadata or beside it, and the file's bytes."""
    settings = {"lora_alpha": 4, "r": 2, "use_rslora": False, "alpha_pattern": {"to_q": 3}, "target_modules": ["to_q"]}
    settings = json.dumps(edited(settings, list(path), value))
    arrays = {f"to_q.lora_{name}.weight": np.ones(shape, np.float32) for name, shape in (("A", (2, 6)), ("B", (4, 2)))}
    save_file(arrays, tmp_path / "x.safetensors", metadata={METADATA: settings} if inside else None)
    (tmp_path / "adapter_config.json").write_text("{}" if inside else settings)
    (tmp_path / "x.safetensors").write_bytes(harmed((tmp_path / "x.safetensors").read_bytes(), harms))
    refused_or_read(read_lora, tmp_path / "x.safetensors")


RECORD = {
    "path": "a.mp4", "cap": ["a cat"], "resolution": {"height": 32, "width": 48}, "num_frames": 9, "fps": 8.0,
    "crop": [0, 48, 0, 32], "cut": [0, 9], "aesthetic": 5.0,
}  # fmt: skip


@fuzzed
@given(paths, values, st.binary(max_size=80), st.sampled_from([".json", ".jsonl", ".parquet"]))
def test_annotations(tmp_path, path, value, content, suffix):
    def reader():
        for record in read_records(tmp_path / f"a{suffix}"):
            with suppress(BadRecord):
                clip_of_record(record, tmp_path)

    (tmp_path / f"a{suffix}").write_bytes(content)
    refused_or_read(reader)
    if suffix != ".parquet":
        text = json.dumps(edited(RECORD, list(path), value))
        (tmp_path / f"a{suffix}").write_text(f"[{text}]" if suffix == ".json" else text)
        refused_or_read(reader)
    (tmp_path / "merge.txt").write_bytes(content)
    refused_or_read(lambda: [list(read_records(part.annotations)) for part in read_merge_file(tmp_path / "merge.txt")])


@fuzzed
@given(st.dictionaries(st.text(max_size=8) | st.just("a" * 5000) | st.just("x"), values, max_size=3), values)
def test_checksums_of_a_folder(tmp_path, checksums, kept):
    (tmp_path / "x").write_text("x")
    (tmp_path / shipped.CHECKSUMS).write_text(json.dumps(checksums))
    (tmp_path / "mindsora").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        refused_or_read(lambda: list(shipped.damaged(tmp_path)))
        known = {str((tmp_path / "x").resolve()): kept}
        (tmp_path / "mindsora" / "checked_files.json").write_text(json.dumps(known))
        refused_or_read(lambda: list(shipped.damaged(tmp_path)))


# Pictures and videos: damaged copies of small files, because random bytes do not come past the first check


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("pictures"), {}
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 4), np.uint8)
    for kind in FORMATS:
        for mode in ("RGB", "P"):
            with suppress(OSError):  # JPEG has no palette
                Image.fromarray(pixels[..., :3]).convert(mode).save(folder / "x", format=kind)
                found[f"{kind} {mode}"] = (folder / "x").read_bytes()
    Image.fromarray(pixels).save(folder / "x", format="PNG")
    return found | {"PNG RGBA": (folder / "x").read_bytes()}


@fuzzed
@given(st.integers(0, 99), st.lists(HARM, max_size=3), st.sampled_from((1.0, 0.1)))
def test_pictures(pictures, tmp_path, number, harms, share):
    kind = sorted(pictures)[number % len(pictures)]
    harms = [(name, where * share, *rest) for name, where, *rest in harms]  # half of the damage: in the header
    (tmp_path / "x.png").write_bytes(harmed(pictures[kind], harms))

    def reader():
        assert read_picture(tmp_path / "x.png").mode == "RGB"

    refused_or_read(reader)


CODECS = {
    "mp4": "libx264", "mkv": "libx264", "ts": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4", "gif": "gif",
    "mov": "prores_ks", "flv": "libx264", "apng": "apng",
}  # fmt: skip
FORMATS_OF_PIXELS = {"gif": "rgb8", "prores_ks": "yuva444p10le", "apng": "rgba"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("videos"), {}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), np.uint8)
    for suffix, codec in CODECS.items():
        with av.open(str(folder / f"x.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=8)
            stream.height, stream.width = pixels.shape[1:3]
            stream.pix_fmt = FORMATS_OF_PIXELS.get(codec, "yuv420p")
            for frame in pixels:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        found[suffix] = (folder / f"x.{suffix}").read_bytes()
    return found


@fuzzed
@given(st.sampled_from(sorted(CODECS)), st.lists(HARM, max_size=3), st.sampled_from((1.0, 0.1)))
def test_videos(videos, tmp_path, kind, harms, share):
    harms = [(name, where * share, *rest) for name, where, *rest in harms]
    (tmp_path / "x.mp4").write_bytes(harmed(videos[kind], harms))

    def reader():
        frames, fps = stream_video(tmp_path / "x.mp4")
        assert 0 < fps <= 1000
        for _, frame in zip(range(8), frames):
            assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8

    refused_or_read(reader)
    for numbers in ([0], [1, 2]):
        refused_or_read(read_frames, tmp_path / "x.mp4", numbers)
