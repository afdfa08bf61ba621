"""An installation contains the package with the nano model's files, and nothing else from the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mindsora.zoo import BOX, autoencoders_in_the_box, in_the_box

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: the build leaves no files in the checkout
    shutil.copytree(ROOT / "mindsora", source / "mindsora", ignore=shutil.ignore_patterns("__pycache__"))
    for link in ("models", "ckpt_convert"):
        (source / link).symlink_to(f"mindsora/{link}")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize("name", [*in_the_box(), *autoencoders_in_the_box()])
def test_models_in_the_box_are_small(name):
    size = sum(path.stat().st_size for path in (BOX / name).rglob("*") if path.is_file())
    assert size <= {"nano": 40, "nano_i2v": 30, "nano_vae_real": 10}[name] * 10**6


def test_wheel_runs_anywhere_and_holds_the_package_alone(wheel):
    assert wheel.filename.endswith("-py3-none-any.whl")
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mindsora"}


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    package = ROOT / "mindsora"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".partial")]
    expected = {str(path.relative_to(ROOT)) for path in files}
    assert any(name.endswith("tokenizer/spiece.model") for name in expected)
    assert expected <= set(wheel.namelist())


def test_licence_and_command_are_in_the_wheel(wheel):
    names = wheel.namelist()
    assert any(name.endswith("LICENSE") for name in names) and any(name.endswith("NOTICE") for name in names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "mindsora = mindsora.cli:program" in wheel.read(entry_points).decode()


def test_a_host_with_cann_is_told_which_mindspore_matches(tmp_path):
    environment = {"ASCEND_HOME_PATH": str(tmp_path), "PATH": ""}
    show = [sys.executable, "setup.py", "--quiet", "--version"]
    with_cann = subprocess.run(show, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert with_cann.returncode == 0 and "MindSpore 2.10 needs CANN 8.2 to 9.1" in with_cann.stderr
    without = subprocess.run(show, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True)
    assert without.returncode == 0 and "CANN" not in without.stderr
