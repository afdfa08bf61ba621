"""A module imports only from its own room and from lower layers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindsora import cli

PACKAGE = Path(__file__).parents[1] / "mindsora"
LAYERS = (  # the lowest first; rooms of one layer may import each other
    ("errors",),
    ("config", "ranges", "shapes", "machine", "files", "interrupts"),
    ("runtime", "compile_cache"),
    ("parallel",),
    ("kernels",),
    ("nn",),
    ("models",),
    ("ckpt_convert",),
    ("text", "media", "sampling", "data"),
    ("released", "shipped", "zoo", "hub", "refine"),
    ("pipelines",),
    ("manifest",),
    ("jobs",),
    ("serving",),
    ("train", "evaluate", "audit", "curate"),
    ("studio",),
    ("commands", "cli"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
RULE = "a module may import its own room and lower layers; from the lowest: " + ", ".join(map("/".join, LAYERS))
# The public names of `mindsora` are loaded on first use from the rooms that have them.
PUBLIC = {
    "TextToVideoPipeline": "pipelines",
    "ImageToVideoPipeline": "pipelines",
    "AutoModel": "pipelines",
    "create_model": "pipelines",
    "list_models": "zoo",
    "export_to_video": "media",
    "export_to_gif": "media",
}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def is_entry(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`, which makes a module a program."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Return (line, room) of every import of this package, including imports inside functions.

    package: dotted name of the package that relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            start = ".".join(filter(None, (base, node.module)))
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            # A name built at run time counts by its constant prefix: f"mindsora.models.{folder}".
            names = [ast.unparse(node.args[0]).removeprefix("f").strip("'\"")]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            if root == "mindsora" and rest:
                yield node.lineno, rest.split(".")[0]


def upwards(path: Path) -> list[str]:
    """Return a line for each import from a higher layer: its place, the module, and both layers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not is_entry(node)]
    own = room_of(path)
    package = ".".join(("mindsora", *path.relative_to(PACKAGE).parent.parts))
    lines = []
    for line, name in imported(tree, package):
        room = PUBLIC.get(name, name)
        if room == "__version__" or room == own:
            continue
        if room not in LEVEL:
            lines.append(f"{path.relative_to(PACKAGE.parent)}:{line}: {room} is in no layer")
        elif LEVEL[room] > LEVEL[own]:
            lines.append(
                f"{path.relative_to(PACKAGE.parent)}:{line}: {own} (layer {LEVEL[own] + 1}) imports {room} "
                f"(layer {LEVEL[room] + 1})"
            )
    return lines


def test_every_room_has_a_layer():
    rooms = {room_of(path) for path in modules()}
    assert rooms == LEVEL.keys()


def test_no_import_upwards():
    # `python -m mindsora.train` is the command: a __main__.py in any folder belongs to the commands.
    lines = [line for path in modules() if path.name != "__main__.py" for line in upwards(path)]
    assert not lines, "\n".join([RULE, *lines])


def test_one_door_upwards():
    """A model loads itself through `mindsora.AutoModel`. No other module below the pipelines imports the package itself."""
    doors = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name == "mindsora" for alias in node.names)
        if LEVEL[room_of(path)] < LEVEL["pipelines"]
    }
    assert doors == {"models/pretrained.py"}


def test_main_modules_import_the_command_line_alone():
    for path in PACKAGE.rglob("__main__.py"):
        assert {room for _, room in imported(ast.parse(path.read_text()), "mindsora")} == {"cli"}, path


@pytest.mark.parametrize(
    "code, rooms",
    [
        ("import mindsora.cli", ["cli"]),
        ("from mindsora import zoo, jobs", ["zoo", "jobs"]),
        ("from mindsora.audit.plan import plan", ["audit"]),
        ("def f():\n    from mindsora.audit import plan", ["audit"]),
        ("from ..train import loop", ["train"]),
        ("from . import rope", ["nn"]),
        ("import numpy\nfrom mindspore import nn", []),
        ("importlib.import_module('mindsora.audit.plan')", ["audit"]),
        ("importlib.import_module(f'mindsora.models.{folder}')", ["models"]),
    ],
)
def test_imports_are_seen(code, rooms):
    assert [room for _, room in imported(ast.parse(code), "mindsora.nn")] == rooms


def test_an_import_upwards_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(upwards.__globals__, "PACKAGE", tmp_path / "mindsora")
    module = tmp_path / "mindsora" / "nn" / "rope.py"
    module.parent.mkdir(parents=True)
    module.write_text("import os\n\ndef f():\n    from mindsora.pipelines.request import Request\n")
    assert upwards(module) == ["mindsora/nn/rope.py:4: nn (layer 6) imports pipelines (layer 11)"]


def commands() -> list[Path]:
    return [path for path in sorted((PACKAGE / "commands").glob("*.py")) if path.name != "__init__.py"]


def test_every_command_has_a_file_of_its_own():
    assert {path.stem for path in commands()} == {
        *cli.COMMANDS,
        "arguments",
        "lora_option",
        "parallel_option",
        "serving_options",
    }  # options that commands share


@pytest.mark.parametrize("path", commands(), ids=lambda path: path.stem)
def test_commands_are_thin(path):
    """Commands parse options, make a call and print lines; test_import.py checks that their help loads no MindSpore."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < 120


def test_argparse_is_in_commands_alone():
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name == "argparse" for alias in node.names)
    }
    assert users == {"commands", "cli.py"}
