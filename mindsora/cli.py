"""The command `mindsora`. Bad input ends with one line on standard error and exit status 2."""

import argparse
import difflib
import errno
import importlib
import io
import os
import shlex
import sys
import warnings

from mindsora import __version__
from mindsora.config import read_yaml
from mindsora.errors import InputError, shown
from mindsora.interrupts import run_program

LONGEST_LINE = 4000  # characters of a message

# Each is a module of mindsora.commands with add_arguments(parser) and run(args), imported when its command is called.
COMMANDS = {
    "generate": "make videos (mp4) or pictures (png) from text and given frames",
    "reconstruct": "encode and decode a video: PSNR, SSIM, both side by side",
    "models": "list the models: sizes, legal shapes; --all: every release of the line",
    "serve": "video jobs over HTTP, as OpenAI's clients ask for them",
    "studio": "a page in the browser that makes clips",
    "pull": "download a published model and make its folder",
    "assemble": "make the folder of a published model from copied files",
    "convert": "a checkpoint to PyTorch, diffusers, MindSpeed-MM or MindSpore",
    "inspect": "say what a checkpoint is, executing nothing in it",
    "verify": "compare two checkpoints, whatever their formats",
    "curate": "from raw videos to a training set: cuts, scores, decisions, a report",
    "data": "annotation files of own clips, what a recipe makes of them, and a cache of their features",
    "train": "train from a recipe",
    "finetune": "adapt a model to a folder of clips: a LoRA, or all weights of the denoiser",
    "evaluate": "measure clips of a model or of anybody: a report with intervals; compare two",
    "kernels": "what computes each operator here, and why",
    "cache": "compiled graphs and operators kept between runs; --clear removes them",
    "plan": "what a clip will cost: legal or not, tokens, FLOPs, memory, time",
    "rerun": "make a file again from its manifest and compare",
    "diff": "what two manifests do not have in common",
    "claims": "published claims: source, bounds, arithmetic, and a command that measures",
    "doctor": "what is wrong with this installation, and what mends it",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str):
        raise InputError(message)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    warnings.showwarning = _one_line_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may lack characters of a prompt
    try:
        try:
            _check_text(argv)
            return _run(argv)
        finally:
            if sys.stdout is not None:  # None where the caller has closed it
                sys.stdout.flush()
    except BrokenPipeError:  # `mindsora models --all | head`; the flush at exit would raise again
        _drop_output()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_output()
        print("mindsora: error: cannot write to standard output: its disk is full", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"mindsora: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    """Read the arguments and call the command."""
    if not argv or argv[0] not in COMMANDS:
        return _no_command(argv)
    module = importlib.import_module(f"mindsora.commands.{argv[0]}")
    summary = COMMANDS[argv[0]]
    summary = f"{summary[0].upper()}{summary[1:]}."
    parser = Parser(prog=f"mindsora {argv[0]}", description=summary, allow_abbrev=False)
    module.add_arguments(parser)
    # Intermixed, so that options may stand before, between and after the positional arguments.
    args = parser.parse_intermixed_args(argv[1:])
    if getattr(args, "config", None):
        options = _options(args.config, vars(args))
        if getattr(args, "size", None):  # the command line's rule wins over the file's numbers
            options = {key: value for key, value in options.items() if key not in ("height", "width")}
        parser.set_defaults(**options)
        args = parser.parse_intermixed_args(argv[1:])  # again: what the command line gives wins over the file
    args.command = shlex.join(["mindsora", *argv])
    return module.run(args) or 0


def _drop_output() -> None:
    """Throw away what is still to be printed: the flush at exit would raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(message: object) -> str:
    """A message for the terminal: names of files stand in many, and a name may hold anything."""
    return shown(" ".join(str(message).split()), LONGEST_LINE, quote=False)


def _check_text(argv: list[str]) -> None:
    """InputError for an argument that is no text in this locale: it could be printed or written nowhere."""
    for argument in argv:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise InputError(f"argument {shown(argument)} is no text in this locale; in UTF-8: export LC_ALL=C.UTF-8")


def _options(path: str, known: dict[str, object]) -> dict[str, object]:
    """Options from a YAML file, as text that the parser converts as it does the command line's.

    Args:
        known: every option of the command, with a value of its kind.
    """
    options = read_yaml(path)
    for key, value in options.items():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(sorted(known))}"
            raise InputError(f"unknown key {shown(key)} in config {shown(path)}: {hint}")
        _check_value(f"{key} in config {shown(path)}", value, isinstance(known[key], bool))
        if isinstance(known[key], list):  # an option that may stand several times
            # Where the command line has it too, argparse would add that to the file's instead of letting it win.
            options[key] = [] if known[key] else [str(item) for item in (value if isinstance(value, list) else [value])]
        elif isinstance(value, bool) and not isinstance(known[key], bool):
            options[key] = "on" if value else "off"  # YAML reads a bare off as false
        elif isinstance(value, list):
            options[key] = ",".join(map(str, value))
        elif not isinstance(value, bool):
            options[key] = str(value)
    return options


def _check_value(where: str, value: object, is_switch: bool) -> None:
    """InputError for a value that no option on the command line could have."""
    items = value if isinstance(value, list) else [value]
    if any(item is None or isinstance(item, (dict, list)) for item in items):
        raise InputError(f"{where}: give one value or a list of them, or leave the key out")
    if any("${" in str(item) for item in items):
        raise InputError(f"{where} = {shown(value)}: write the value itself, not a reference")
    if is_switch and not isinstance(value, bool):
        raise InputError(f"{where} = {shown(value)}: must be true or false")


def _no_command(argv: list[str]) -> int:
    parser = Parser(
        prog="mindsora",
        description="The Open-Sora Plan video models on MindSpore.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:12} {summary}" for name, summary in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"mindsora {__version__}")
    parser.add_argument("command", help=f"one of {', '.join(COMMANDS)}; `mindsora COMMAND --help` says more")
    command = parser.parse_args(argv or ["--help"]).command
    raise InputError(f"no command {shown(command)}; commands: {', '.join(COMMANDS)}")


def _one_line_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if category is UserWarning and f"{os.sep}mindsora{os.sep}" in filename:
        print(f"mindsora: warning: {_one_line(message)}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def program() -> None:
    """The console script: `main`, with signals that unwind it."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
