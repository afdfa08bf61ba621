"""The command `mindsora`. Bad input ends with one line on standard error and exit status 2."""

import argparse
import importlib
import os
import sys
import warnings

from mindsora import __version__
from mindsora.errors import InputError

# Each module has add_arguments(parser) and run(args), and is imported when its command is called.
COMMANDS = {
    "generate": ("mindsora.generate", "make videos (mp4) or pictures (png) from text"),
    "reconstruct": ("mindsora.reconstruct", "encode and decode a video: PSNR, SSIM, both side by side"),
    "models": ("mindsora.zoo", "list the models: sizes and legal shapes"),
    "train": ("mindsora.train.__main__", "train from a recipe"),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str):
        raise InputError(message)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    warnings.showwarning = _one_line_warning
    try:
        if not argv or argv[0] not in COMMANDS:
            return _no_command(argv)
        module_name, summary = COMMANDS[argv[0]]
        module = importlib.import_module(module_name)
        parser = Parser(prog=f"mindsora {argv[0]}", description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False)
        module.add_arguments(parser)
        # Intermixed, so that options may stand before, between and after the positional arguments.
        arguments = _with_config(argv[1:]) if argv[0] == "generate" else argv[1:]
        return module.run(parser.parse_intermixed_args(arguments)) or 0
    except InputError as error:
        print(f"mindsora: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _with_config(arguments: list[str]) -> list[str]:
    """The options in the YAML file of `--config`, then the arguments themselves, so that what is given by hand wins."""
    finder = Parser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(arguments)[0].config
    if path is None:
        return arguments
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read config {path!r}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(config, dict):
        raise InputError(f"config {path!r} must hold options of this command, such as num_frames: 121")
    return [f"--{str(key).replace('_', '-')}={value}" for key, value in config.items()] + arguments


def _no_command(argv: list[str]) -> int:
    parser = Parser(prog="mindsora", description="The Open-Sora Plan video models on MindSpore.",
                    formatter_class=argparse.RawDescriptionHelpFormatter,
                    epilog="\n".join(f"  {name:12} {summary}" for name, (_, summary) in COMMANDS.items()))
    parser.add_argument("--version", action="version", version=f"mindsora {__version__}")
    parser.add_argument("command", help=f"one of {', '.join(COMMANDS)}; `mindsora COMMAND --help` says more")
    command = parser.parse_args(argv or ["--help"]).command
    raise InputError(f"no command {command!r}; commands: {', '.join(COMMANDS)}")


def _one_line_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if category is UserWarning and f"{os.sep}mindsora{os.sep}" in filename:
        print(f"mindsora: warning: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


if __name__ == "__main__":
    sys.exit(main())
