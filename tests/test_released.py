"""The table of releases is complete, matches the package, and is equal in README and command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import pytest
from golden_file import FOLDER
from published import publish_v1_2, publish_v1_3, publish_v1_5

from mindsora import ImageToVideoPipeline, TextToVideoPipeline, cli, zoo
from mindsora.audit import catalogue as table
from mindsora.audit.plan import plan
from mindsora.ckpt_convert.recognise import build_cell
from mindsora.config import read_json
from mindsora.models import registry
from mindsora.released import RELEASED, UNVERIFIED, released

LINE = [
    "v1.5.0",
    "v1.3.0/any93x640x640",
    "v1.3.0/any93x640x640_i2v",
    "v1.3.0/vae",
    "v1.2.0/93x720p",
    "v1.2.0/29x720p",
    "v1.2.0/93x480p",
    "v1.2.0/29x480p",
    "v1.2.0/1x480p",
    "v1.2.0/93x480p_i2v",
    "v1.2.0/vae",
    "v1.1.0",
    "v1.0.0",
]


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


@pytest.mark.parametrize(
    "entry, name",
    [(entry, name) for entry in RELEASED for name in entry.cells],
    ids=lambda value: getattr(value, "name", value),
)
def test_parameters_are_those_of_the_cells(entry, name):
    cell, _ = component(entry, name)
    haar = {key: value.size for key, value in registry.spec_of(cell).names.constants(cell).items()}
    kernels = sum(size for key, size in haar.items() if key.endswith("weight"))  # upstream: parameters, not buffers
    assert sum(p.size for p in cell.get_parameters()) + kernels == entry.parameters[name]


@pytest.mark.parametrize(
    "name, keys",
    [
        ("v1.5", "wfvae_888_v1_5"),
        ("v1.3", "wfvae_488_v1_3_8ch_ef64_128_c2"),
        ("v1.2_vae", "causalvae_v1_2"),
        ("v1.1", "causalvae_v1_1"),
    ],
)
def test_autoencoders_have_the_released_configurations(name, keys):
    _, config = component(released(name), "vae")
    assert json.loads((FOLDER / "keys/autoencoders.json").read_text())[keys]["config"].items() <= config.items()


def test_model_folders_say_what_the_table_says():
    for entry in RELEASED:
        if entry.is_model:
            index = zoo.ModelIndex.read(zoo.configuration(entry.name))
            assert {name: index.components[name] for name in entry.cells} == entry.cells
            assert entry.what.split(":")[0] == index.what
    t2v, i2v = (zoo.configuration(name) for name in ("v1.3", "v1_3_i2v"))
    for name in ("vae", "text_encoder"):  # v1.3 has one of each
        assert read_json(t2v / name / "config.json") == read_json(i2v / name / "config.json")


def test_readme_is_filled():
    text = table.README.read_text(encoding="utf-8")
    assert text == table.filled(text), "run: python -m mindsora.audit.catalogue"
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
    assert rows["v1.2_vae"]["memory"]["weights"] == {"vae": 4 * 239_189_991}
    assert (
        rows["v1.2_93x720p"]["runs"] == "yes" and "height a multiple of 16 up to 720" in rows["v1.2_93x720p"]["legal"]
    )
    assert all(row["legal"] for row in rows.values()) and "221 x 512 x 512" in rows["v1.1"]["legal"]
    unfinished = {name for name, row in rows.items() if "without the final fine-tuning" in " ".join(row["caveats"])}
    assert unfinished == {"v1.2_29x720p", "v1.2_93x480p"}  # as upstream's README states
    assert cli.main(["models", "--all"]) == 0
    text = capsys.readouterr().out
    assert "watermarks" in text and "missing: the denoiser, LatteT2V" in text and UNVERIFIED in text
    for row in rows.values():
        part = text.split(f"\n{row['name']}: ")[1].split("\nv1.")[0]
        assert (f"config  mindsora/released/{row['configuration']}\n" in part) == bool(row["cells"])
        assert row["tables"].keys() == row["cells"].keys()
        assert all(f"{cell}, {row['tables'][name]}\n" in part for name, cell in row["cells"].items())
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert "v1.3_i2v" in text and "8.59" in text and "v1.1" not in text  # models that run, given the weights
    assert "nano: in the box, text to video, " in text and "nano_i2v: in the box, frames to video, " in text


def test_converter_tables_are_there():
    root = table.README.parents[2]
    for entry in RELEASED:
        for name, path in table.row(entry, planned=False)["tables"].items():
            assert (root / path).is_file(), (entry.name, name)


def test_memory_of_autoencoders_alone():
    """This equals the planner's number for the same autoencoder in a model; CausalVAE's widest layer spans the clip."""
    wavelet, *causal = (table.row(released(name), planned=True)["memory"] for name in ("v1.3_vae", "v1.2_vae", "v1.1"))
    assert wavelet["decoded"] == [93, 480, 640]
    part = plan("v1.3", size=(93, 480, 640), device=table.CARD)["memory"]["components"]["vae"]
    assert wavelet["peak"] == part["weights"] + part["activations"]
    for memory in causal:
        assert memory["peak"] > memory["weights"]["vae"] + 4 * 2 * 256 * 93 * 480 * 640  # input and output of the layer
        assert memory["peak"] > 10 * wavelet["peak"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["plan", "--model", "v1_0"], ["v1.0.0 does not run here", "LatteT2V"]),
        (["plan", "--model", "v1.2_vae"], ["the autoencoder alone", "mindsora.models.CausalVAE"]),
        (["plan", "--model", "v1_1"], ["the autoencoder alone"]),
        (
            ["generate", "a cat", "--model", "v1.3", "--output", "x.mp4"],
            [
                "weights are not in the box",
                "`mindsora pull v1.3`",
                "`mindsora assemble v1.3 --from DIR`",
                "recipes/v1_3/t2v/",
            ],
        ),
        (["generate", "a cat", "--model", "v1.3_i2v", "--output", "x.mp4"], ["recipes/v1_3/i2v/README.md"]),
        (["generate", "a cat", "--model", "v1.5", "--output", "x.mp4"], ["recipes/v1_5/t2v_121x576x1024/README.md"]),
    ],
)
def test_models_without_weights_or_cells(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    "name, publish, pipeline",
    [
        pytest.param("v1.5", publish_v1_5, TextToVideoPipeline, marks=pytest.mark.full),
        pytest.param("v1.3", partial(publish_v1_3, tasks=["t2v"]), TextToVideoPipeline, marks=pytest.mark.full),
        pytest.param("v1.3_i2v", partial(publish_v1_3, tasks=["i2v"]), ImageToVideoPipeline, marks=pytest.mark.full),
        pytest.param("v1.2_93x720p", partial(publish_v1_2, tasks=["t2v"]), TextToVideoPipeline, marks=pytest.mark.full),
        pytest.param(
            "v1.2_93x480p_i2v", partial(publish_v1_2, tasks=["i2v"]), ImageToVideoPipeline, marks=pytest.mark.full
        ),
    ],
    ids=["v1.5", "v1.3", "v1.3_i2v", "v1.2", "v1.2_i2v"],
)
def test_recipe_makes_a_model_folder(tmp_path, monkeypatch, name, publish, pipeline):
    """The command of its README runs, with tiny weights in place of the published ones; run.sh finds what it made."""
    root, entry = table.README.parents[2], released(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    publish(tmp_path / "hub")
    for repository in {part.repository for part in entry.parts}:
        shutil.move(tmp_path / "hub" / repository, tmp_path / "published" / repository.split("/")[1])
    section = (root / entry.recipe).read_text(encoding="utf-8").split("\n## The folder of the weights\n")[1]
    section = section.split("\n## ")[0]
    assert f"\n    mindsora pull {name}\n" in section
    assert all(f"| `{part.repository}` |" in section and f"| `{part.copy}` |" in section for part in entry.parts)
    (commands,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    programs = f'mindsora() {{ "{sys.executable}" -m mindsora.cli "$@"; }}\n'
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-euc", programs + commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\nmodel={name}\n" in (root / entry.recipe).with_name("run.sh").read_text(encoding="utf-8")
    assert pipeline.from_pretrained(name).index == zoo.ModelIndex.read(zoo.configuration(name))
