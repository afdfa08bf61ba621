"""The cost of an import, and one class object per name."""

import subprocess
import sys
from pathlib import Path

import pytest

import mindsora
from mindsora import cli

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "mindsora",
        "mindsora.cli",
        "mindsora.jobs.planning",
        "mindsora.zoo",
        "mindsora.runtime",
        "mindsora.models",
        "mindsora.pipelines.request",
        "mindsora.audit.plan",
        "mindsora.audit.rerun",
        "mindsora.audit.claims",
        "mindsora.audit.doctor",
    ],
)
def test_import_without_mindspore(module):
    assert python(f"import sys, {module}; print('mindspore' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "code",
    [
        "import mindsora",
        """
from mindsora import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
""",
    ],
    ids=["import", "help"],
)
def test_start_loads_the_standard_library_alone(code):
    """These keep `import mindsora` and `mindsora --help` quick; benchmarks/start_up.py measures the seconds."""
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    loaded = {name.split(".")[0] for name in python(code).splitlines()[-1].split()}
    assert "mindsora" in loaded and loaded - sys.stdlib_module_names == {"mindsora"}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_without_mindspore(command):
    code = f"""
import sys
from mindsora import cli
try:
    cli.main([{command!r}, "--help"])
except SystemExit:
    print("mindspore" in sys.modules)
"""
    assert python(code).splitlines()[-1] == "False"


def test_import_sets_nothing():
    code = "import os; before = dict(os.environ); import mindsora, mindsora.runtime; print(before == dict(os.environ))"
    assert python(code) == "True"


def test_public_names():
    assert set(mindsora.__all__) == {
        "__version__",
        "TextToVideoPipeline",
        "ImageToVideoPipeline",
        "AutoModel",
        "create_model",
        "list_models",
        "export_to_video",
        "export_to_gif",
    }
    assert set(mindsora.__all__) <= set(dir(mindsora))
    assert mindsora.TextToVideoPipeline.__module__ == "mindsora.pipelines.text_to_video"
    assert mindsora.ImageToVideoPipeline.__module__ == "mindsora.pipelines.image_to_video"
    assert mindsora.export_to_video.__module__ == "mindsora.media.writing"
    with pytest.raises(AttributeError, match="'TextToVideo'"):
        mindsora.TextToVideo  # noqa: B018  the access itself fails


def test_links_at_the_root_give_the_same_classes():
    code = """
from models import WFVAE, SUV
import ckpt_convert, mindsora.ckpt_convert, mindsora.models
print(WFVAE is mindsora.models.WFVAE, SUV is mindsora.models.SUV, ckpt_convert.load is mindsora.ckpt_convert.load)
"""
    assert python(code).splitlines()[-1] == "True True True"
