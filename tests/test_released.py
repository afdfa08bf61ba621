"""The table of releases: complete, true of what the package holds, the same in the README and on the command line."""

import json

import pytest
from golden_file import FOLDER

from mindsora import cli, zoo
from mindsora.ckpt_convert.names import table_for
from mindsora.ckpt_convert.recognise import build_cell
from mindsora.config import read_json
from mindsora.released import RELEASED, UNVERIFIED, released, table

LINE = """
    v1.5.0 v1.3.0/any93x640x640 v1.3.0/any93x640x640_i2v v1.3.0/vae v1.2.0/93x720p v1.2.0/29x720p v1.2.0/93x480p
    v1.2.0/29x480p v1.2.0/1x480p v1.2.0/93x480p_i2v v1.2.0/vae v1.1.0 v1.0.0
""".split()


def test_every_released_folder_is_there():
    assert [entry.published for entry in RELEASED] == LINE
    assert len({entry.name for entry in RELEASED}) == len(RELEASED)


def test_what_does_not_run_says_what_is_missing_and_claims_nothing():
    for entry in RELEASED:
        assert bool(entry.cells) == bool(entry.configuration) == bool(entry.verified), entry.name
        assert entry.cells or entry.missing, entry.name
        assert entry.parameters.keys() == entry.cells.keys(), entry.name


def component(entry, name):
    """The Cell of a component, without values, and its config.json."""
    folder = zoo.CONFIGURATIONS / entry.configuration
    config = read_json((folder / name if entry.is_model else folder) / "config.json")
    return build_cell(entry.cells[name], config), config


@pytest.mark.parametrize("entry, name", [(entry, name) for entry in RELEASED for name in entry.cells],
                         ids=lambda value: getattr(value, "name", value))
def test_parameters_are_those_of_the_cells(entry, name):
    cell, _ = component(entry, name)
    haar = {key: value.size for key, value in table_for(cell).constants(cell).items()}
    kernels = sum(size for key, size in haar.items() if key.endswith("weight"))  # upstream: parameters, not buffers
    assert sum(p.size for p in cell.get_parameters()) + kernels == entry.parameters[name]


@pytest.mark.parametrize("name, keys", [
    ("v1.5", "wfvae_888_v1_5"), ("v1.3", "wfvae_488_v1_3_8ch_ef64_128_c2"), ("v1.2_vae", "causalvae_v1_2"),
    ("v1.1", "causalvae_v1_1"),
])
def test_autoencoders_have_the_released_configurations(name, keys):
    _, config = component(released(name), "vae")
    assert json.loads((FOLDER / "keys/autoencoders.json").read_text())[keys]["config"].items() <= config.items()


def test_model_folders_say_what_the_table_says():
    for entry in RELEASED:
        if entry.is_model:
            index = zoo.ModelIndex.read(zoo.configuration(entry.name))
            assert {name: index.components[name] for name in entry.cells} == entry.cells
    t2v, i2v = (zoo.configuration(name) for name in ("v1.3", "v1_3_i2v"))
    for name in ("vae", "text_encoder"):  # v1.3 has one of each
        assert read_json(t2v / name / "config.json") == read_json(i2v / name / "config.json")


def test_readme_is_filled():
    text = table.README.read_text(encoding="utf-8")
    assert text == table.filled(text), "run: python -m mindsora.released.table"
    assert UNVERIFIED in text
    for entry in RELEASED:
        if entry.configuration:
            assert (table.README.parent / "../released" / entry.configuration).is_dir()


def test_command(capsys):
    assert cli.main(["models", "--all", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["released"]}
    assert list(rows) == [entry.name for entry in RELEASED]
    assert rows["v1.3"]["runs"] == "yes" and rows["v1.1"]["runs"] == "the autoencoder" and rows["v1.0"]["runs"] == "no"
    assert rows["v1.3"]["legal"].startswith("frames 1 + 4k up to 93; height a multiple of 16 up to 640")
    assert rows["v1.3"]["memory"]["weights"]["text_encoder"] == 2 * 5_655_173_120  # bfloat16
    assert rows["v1.2_vae"]["memory"] == {"weights": {"vae": 4 * 239_189_991}}
    assert "memory" not in rows["v1.2_93x720p"] and rows["v1.2_93x720p"]["legal"] == "trained at 93 x 720 x 1280"
    assert all(row["legal"] for row in rows.values()) and "221 x 512 x 512" in rows["v1.1"]["legal"]
    unfinished = {name for name, row in rows.items() if "without the final fine-tuning" in " ".join(row["caveats"])}
    assert unfinished == {"v1.2_29x720p", "v1.2_93x480p"}  # those that upstream's README names
    assert cli.main(["models", "--all"]) == 0
    text = capsys.readouterr().out
    assert "watermarks" in text and "missing: names, shapes and configuration" in text and UNVERIFIED in text
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert "v1.3_i2v" in text and "8.59" in text and "v1.2" not in text  # what can be run, weights given


@pytest.mark.parametrize("arguments, words", [
    (["plan", "--model", "v1.2_93x720p"], ["v1.2.0/93x720p does not run here", "dense 3-D denoiser"]),
    (["plan", "--model", "v1.2_vae"], ["the autoencoder alone", "mindsora.models.CausalVAE"]),
    (["plan", "--model", "v1_1"], ["the autoencoder alone"]),
    (["generate", "a cat", "--model", "v1.3", "--output", "x.mp4"], ["weights are not in the box", "converted files"]),
])
def test_models_without_weights_or_cells(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
