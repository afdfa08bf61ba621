"""A model is one folder and one line: a registered denoiser outside the tree supports everything the others do."""

import ast
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from checkpoint_files import hashes

import mindsora
from mindsora import TextToVideoPipeline, cli, zoo
from mindsora.audit.plan import describe, plan
from mindsora.ckpt_convert import convert, upstream_state
from mindsora.config import from_dict, read_json
from mindsora.errors import InputError
from mindsora.kernels.choice import OPERATORS
from mindsora.models import LlamaForCausalLM, registry

CONFIG = {
    "_class_name": "ToyTransformer",
    "dim": 16,
    "num_layers": 3,
    "in_channels": 4,
    "caption_channels": 24,
    "patch_size": 2,
}
COST = {
    "transformer": ("operations", "stages", "dense", "memory"),
    "vae": ("encode", "decode", "decode_chunked", "decoder_blocks", "memory"),
    "text_encoder": ("operations", "depth", "memory"),
    "text_encoder_2": ("operations", "depth", "memory"),
    "refiner": (),  # the planner counts what makes the video
}
LLAMA = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
TINY = {model.__name__: (model, config) for model, config in tiny_pipeline.CONFIGS.values()} | {
    model.__name__: (model, config)
    for tasks in (tiny_pipeline.TASKS_V1_2, tiny_pipeline.TASKS)
    for model, config in (*tasks.values(), (tiny_pipeline.CausalVAE, tiny_pipeline.CAUSALVAE))
}
TINY["LlamaForCausalLM"] = LlamaForCausalLM, LLAMA


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A package in a temporary folder that contains the toy, registered for this module."""
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "somebodys_models").mkdir()
    shutil.copytree(Path(__file__).parent / "toy_denoiser", path / "somebodys_models" / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_SPECS", dict(registry._SPECS))
        patch.syspath_prepend(path)
        registry.register("somebodys_models.toy")
        yield registry.spec("Toy")


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A model folder with it."""
    return tiny_pipeline.write_with(tmp_path_factory.mktemp("toy") / "model", toy.cell, CONFIG)


def test_index(folder):
    index = zoo.ModelIndex.read(folder)
    assert index.components["transformer"] == "Toy" and not index.takes_frames
    with pytest.raises(InputError, match=r"vae = .* must be \['mindsora', 'WFVAE'\]"):
        from_dict(zoo.ModelIndex, read_json(folder / "model_index.json") | {"vae": ["mindsora", "CausalVAE"]})


def test_plan(folder):
    """9 x 32 x 48 are 2 latent frames of 2 x 3 tokens; attention's two products in 3 layers of 16 channels."""
    found = plan(str(folder))
    assert found["tokens"]["visual"] == 12
    assert found["flops"]["denoiser"]["attention"] == 3 * 4 * 12**2 * 16
    assert (
        found["memory"]["components"]["transformer"]["weights"] > found["memory"]["components"]["transformer"]["held"]
    )
    assert "12 visual" in describe(found)


def test_pipeline_and_offload(folder):
    frames = [
        TextToVideoPipeline.from_pretrained(folder, jit="off", offload=offload)("a red circle", seed=3).frames
        for offload in (False, True)
    ]
    assert frames[0].shape == (1, 9, 32, 48, 3) and np.isfinite(frames[0]).all() and frames[0].std() > 0
    np.testing.assert_array_equal(*frames)


def test_conversion_both_ways(folder, toy, tmp_path):
    source = folder / "transformer"
    report = convert(source, tmp_path / "toy.ckpt")
    assert (report.model, report.assumed) == ("Toy", {})
    again = convert(tmp_path / "toy.ckpt", tmp_path / "again")
    assert again.names == "mindsora" and hashes(tmp_path / "again") == hashes(source)
    assert toy.config.from_upstream(read_json(tmp_path / "again" / "config.json")) == toy.config.from_upstream(CONFIG)


def test_inspect(folder, capsys):
    assert not cli.main(["inspect", str(folder / "transformer")])
    assert "Toy, upstream names" in capsys.readouterr().out


def test_names_of_models_are_unique(toy, tmp_path, monkeypatch):
    registry.register(toy.package)  # a second time changes nothing
    shutil.copytree(Path(__file__).parent / "toy_denoiser", tmp_path / "another_toy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="'Toy' of another_toy is in somebodys_models.toy already"):
        registry.register("another_toy")


def test_unknown_model():
    with pytest.raises(InputError, match="no model 'UNet': known are SUV, OpenSoraT2V"):
        registry.spec("UNet")


@pytest.mark.parametrize("name", registry.names())
def test_spec_fits_its_folder(name):
    """Everything that a spec names exists: classes, lists of layers, operators, counts, companions, the signature."""
    spec, (model, config) = registry.spec(name), TINY[name]
    cell = model.from_upstream(config)
    assert type(cell) is spec.cell and isinstance(cell.config, spec.config)
    attributes = (*spec.streamed_layers, spec.streamed_table) if spec.streamed_table else spec.streamed_layers
    assert all(len(list(getattr(cell, attribute).get_parameters())) for attribute in attributes)
    assert set(spec.operators) <= {*OPERATORS, "conv3d"}
    assert all(callable(getattr(spec.cost, function)) for function in COST[spec.component])
    assert all(registry.spec(one).component == part for part in COST for one in spec.companions.get(part, ()))
    names = upstream_state(cell)
    assert registry.recognised(names) == spec
    if spec.is_sharded:
        assert spec.sharding.heads in config and any(spec.sharding.axis(key) is not None for key in names)
    if spec in registry.mindspeed():
        assert any(spec.sharding.stage(key) is not None for key in names)


def test_assumed_latents_of_v1_5_are_those_of_the_released_configuration():
    from mindsora.models.wfvae.names import _V1_5

    released = read_json(zoo.CONFIGURATIONS / "v1_5/vae/config.json")
    assert {key: released[key] for key in _V1_5} == _V1_5 and len(_V1_5["scale"]) == released["latent_dim"]


def test_nobody_else_asks_which_model_it_is():
    """Outside the models' folders and the catalogue of releases, no string is a model's name and no isinstance tests
    for a model's class."""
    package, known = Path(mindsora.__file__).parent, set(registry.names())
    asked = []
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] in ("models", "released"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in known:
                asked.append(f"{path}:{node.lineno}: {node.value!r}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                classes = {part.split(".")[-1] for part in ast.unparse(node.args[1]).strip("()").split(", ")}
                asked += [f"{path}:{node.lineno}: isinstance of {one}" for one in classes & known]
    assert not asked, "\n".join(asked)
