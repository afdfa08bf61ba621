"""Shipped models have checksums: a flipped bit gives one clear error, and a second check costs nothing."""

import shutil

import pytest

import mindsora
from mindsora import shipped, zoo
from mindsora.audit import doctor
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.files import file_sha256


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(zoo.BOX / "nano_i2v", tmp_path / "box" / "nano_i2v")


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*zoo.in_the_box(), *zoo.autoencoders_in_the_box()])
def test_the_checksums_are_current(name):
    folder = zoo.BOX / name
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del files[shipped.CHECKSUMS]
    assert read_json(folder / shipped.CHECKSUMS) == {key: file_sha256(path) for key, path in files.items()}


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/spiece.model"])
def test_a_flipped_bit_is_named_when_the_model_loads(model, name):
    shipped.check_files(model)
    flip(model / name)
    with pytest.raises(InputError, match=f"{name}' is missing or damaged: its sha256"):
        mindsora.ImageToVideoPipeline.from_pretrained(model)
    (model / shipped.CHECKSUMS).unlink()
    shipped.check_files(model)


def test_doctor_names_the_file(model, monkeypatch):
    monkeypatch.setattr(doctor, "BOX", model.parent)
    monkeypatch.setattr(doctor, "in_the_box", lambda: ["nano_i2v"])
    assert doctor.models()[1] == "ok"
    (model / "model_index.json").unlink()
    finding = doctor.models()
    assert finding[1] == "wrong" and "model_index.json is missing or damaged" in finding[2]


def test_a_file_is_read_once_for_its_size_and_date(model, monkeypatch):
    read = []
    monkeypatch.setattr(shipped, "file_sha256", lambda path: read.append(path.name) or file_sha256(path))
    shipped.check_files(model)
    assert len(read) == len(read_json(model / shipped.CHECKSUMS))
    shipped.check_files(model)
    flip(model / "vae" / "config.json")
    with pytest.raises(InputError):
        shipped.check_files(model)
    assert read[-1] == "config.json" and len(read) == len(read_json(model / shipped.CHECKSUMS)) + 1


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": [1, 2, 3]}'])
def test_a_damaged_cache_is_read_again(model, tmp_path, content):
    cache = tmp_path / "cache" / "mindsora" / "checked_files.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    shipped.check_files(model)
    assert len(read_json(cache)) >= len(read_json(model / shipped.CHECKSUMS))


def test_a_home_that_cannot_be_written(model, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    shipped.check_files(model)
