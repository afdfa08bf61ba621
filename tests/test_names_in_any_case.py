"""The command line and the API accept names of models, dtypes and formats in upper and lower case."""

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image

from mindsora import cli, zoo
from mindsora.ckpt_convert import convert
from mindsora.errors import InputError
from mindsora.jobs import plan
from mindsora.pipelines.components import component_dtypes
from mindsora.pipelines.given_files import GivenFiles
from mindsora.released import released


def test_models():
    assert zoo.find("NANO") == zoo.find("nano")
    assert released("V1.3_I2V") == released("v1_3_i2v") == released("v1.3_i2v")
    assert zoo.configuration("V1.5") == zoo.configuration("v1.5")


def test_dtypes():
    assert component_dtypes("FP32", "CPU") == component_dtypes("float32", "CPU")
    assert component_dtypes({"vae": "Float16"}, "CPU") == component_dtypes({"vae": "float16"}, "CPU")
    with pytest.raises(InputError, match="dtype 'int8'"):
        component_dtypes("INT8", "CPU")


def test_converter(tmp_path, capsys):
    source = tiny_pipeline.write_v1_3(tmp_path / "model", "t2v") / "transformer"
    assert convert(source, tmp_path / "a", to="Diffusers", dtype="FP16", model="opensorat2v").to == "diffusers"
    arguments = ["--to", "MindSpore", "--model", "OPENSORAT2V", "--dtype", "Bf16", "--quiet"]
    assert cli.main(["convert", str(source), str(tmp_path / "b.ckpt"), *arguments]) == 0, capsys.readouterr().err


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    """A tiny model that takes given frames, and a picture in portrait format."""
    folder = tmp_path_factory.mktemp("portrait")
    model = tiny_pipeline.write_v1_3(folder / "model", "i2v")
    Image.fromarray(np.full((300, 150, 3), 90, np.uint8)).save(folder / "tall.png")
    return str(model), str(folder / "tall.png"), str(folder / "x.mp4")


def test_a_clip_takes_its_size_from_the_first_picture(portrait):
    model, picture, output = portrait
    given = GivenFiles(images=((picture, None),))
    (job,) = plan(model, ["a cat"], output, given=given, size="from-image").jobs
    assert job.request.size == (9, 64, 32)  # within 64 x 64, multiples of 16


@pytest.mark.parametrize(
    "given, options, words",
    [
        (GivenFiles(), {"size": "from-image"}, ["no picture is given"]),
        (None, {"size": "from-image", "height": 32}, ["size = 'from-image' and height = 32"]),
        (None, {"size": "large"}, ["size = 'large'", "'from-image'"]),
    ],
)
def test_a_size_that_no_picture_gives(portrait, given, options, words):
    model, picture, output = portrait
    with pytest.raises(InputError) as error:
        plan(model, ["a cat"], output, given=given or GivenFiles(images=((picture, None),)), **options)
    assert all(word in str(error.value) for word in words), error.value


def test_the_command_lines_rule_wins_over_the_size_of_a_recipe(portrait, tmp_path, capsys):
    model, picture, output = portrait
    (tmp_path / "c.yaml").write_text("num_frames: 5\nheight: 16\nwidth: 32\nsteps: 1\n")
    arguments = ["--image", picture, "--size", "From-Image", "--config", str(tmp_path / "c.yaml"), "--jit", "OFF"]
    status = cli.main(["generate", "a cat", "--model", model, "--output", output, *arguments, "--quiet"])
    assert status == 0, capsys.readouterr().err
    from mindsora.config import read_json

    request = read_json(output + ".json")["request"]
    assert (request["height"], request["width"]) == (64, 32)
