"""What is wrong with this installation, and the command that repairs it.

Checks that might crash run in separate processes, so that this one survives to report. (No MindSpore here.)
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from mindsora.errors import InputError
from mindsora.kernels.build import compiler_command
from mindsora.machine import cann_home, cann_version, cores, free_memory, version_line
from mindsora.runtime import ENVIRONMENT
from mindsora.shipped import damaged
from mindsora.zoo import BOX, autoencoders_in_the_box, in_the_box

PYTHON = ((3, 10), (3, 13))  # from, and below
PACKAGES = {"mindspore": ("2.10", "2.11"), "numpy": ("1.25", "2")}
CANN = ("8.2", "8.3", "8.5", "9.0", "9.1")  # that MindSpore 2.10 accepts
INSTALL = f"install CANN {CANN[-1]} with its kernels, then source its set_env.sh"
MEMORY = 1.5e9  # bytes: import, compile and run the smallest model
DISK = 1e9
TOOLKIT = Path("/usr/local/Ascend/ascend-toolkit")
DRIVER = Path("/usr/local/Ascend/driver/version.info")
NODES = Path("/dev")
PATIENCE = 600  # seconds a probe may take; compiling all operators takes about a minute

# In a process of its own: import, compute something, count the cards.
PROBE = """
import json
{before}
import mindspore as ms, numpy as np
ascend = ms.device_context.ascend.is_available()
ms.set_device("CPU")
x = ms.Tensor(np.eye(2, dtype=np.float32)) + 1
assert float((x @ x).asnumpy()[0, 0]) == 5
print(json.dumps(dict(version=ms.__version__, cards=ms.device_context.ascend.device_count() if ascend else 0)))
"""
# `mindsora ...` of this package, wherever it is installed.
COMMAND = "import sys; sys.path.insert(0, sys.argv.pop(1)); from mindsora.cli import main; sys.exit(main())"
BEFORE = ("torch", "sentencepiece", "tokenizers", "cv2", "av")  # bring an OpenMP or a protobuf of their own


class Finding(NamedTuple):
    """The result of one check."""

    name: str
    state: str  # "ok", "note" or "wrong"
    found: str
    mend: str = ""  # a command, or what to do


def examine() -> list[Finding]:
    """Run every check, each after those it depends on."""
    findings = [python(), *packages(), shadowing(), *environment(), *ascend(), compiler()]
    spec = importlib.util.find_spec("mindspore")
    if spec is not None:
        findings += [*imports(), *kernels()]
    return findings + [memory(), disk(), models()]


def python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    first, last = (".".join(map(str, bound)) for bound in PYTHON)
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        return Finding("Python", "ok", found)
    return Finding(
        "Python",
        "wrong",
        f"{found}; MindSpore 2.10 needs {first} up to, not including, {last}",
        "python3.11 -m venv .venv && .venv/bin/python -m pip install mindsora",
    )


def packages() -> list[Finding]:
    """MindSpore and NumPy by version, everything else that MindSora installs by presence."""
    findings = []
    for package, (lowest, below) in PACKAGES.items():
        mend = f'python -m pip install "{package}>={lowest},<{below}"'
        found = _version(package)
        if found is None:
            findings.append(Finding(package, "wrong", "not installed", mend))
        elif not _numbers(lowest) <= _numbers(found) < _numbers(below):
            findings.append(Finding(package, "wrong", f"{found}; needs {lowest} up to, not including, {below}", mend))
        else:
            findings.append(Finding(package, "ok", found))
    try:
        wanted = [line for line in requires("mindsora") or () if "extra ==" not in line]
    except PackageNotFoundError:
        return [
            *findings,
            Finding(
                "packages",
                "note",
                "MindSora is run from a folder, not installed",
                "python -m pip install --editable . (in that folder)",
            ),
        ]
    names = [re.match(r"[\w.-]+", line)[0] for line in wanted]
    missing = [name for name in names if name not in PACKAGES and _version(name) is None]
    if missing:
        return [
            *findings,
            Finding(
                "packages",
                "wrong",
                f"not installed: {', '.join(missing)}",
                f"python -m pip install {' '.join(missing)}",
            ),
        ]
    return [*findings, Finding("packages", "ok", f"all {len(names)} that MindSora needs")]


def shadowing() -> Finding:
    """A file in the working folder that hides a package: Python looks there first."""
    hidden = [
        name
        for name in ("mindspore", "numpy", "av", "tokenizers")
        if Path(f"{name}.py").exists() or (Path(name) / "__init__.py").exists()
    ]
    if hidden:
        return Finding(
            "working folder",
            "wrong",
            f"holds {', '.join(hidden)}, which hides the installed package",
            "cd to another folder, or rename it",
        )
    return Finding("working folder", "ok", "hides no package")


def environment() -> list[Finding]:
    """Variables that MindSpore reads when it is imported."""
    findings = []
    for name, value in ENVIRONMENT.items():
        if os.environ.get(name, value) != value:
            findings.append(
                Finding(name, "note", f"{os.environ[name]!r}; MindSora is tested with {value!r}", f"unset {name}")
            )
    if os.environ.get("MS_COMPILER_CACHE_ENABLE") == "1":
        findings.append(
            Finding(
                "MS_COMPILER_CACHE_ENABLE",
                "wrong",
                "MindSpore mixes up graphs of different sizes",
                "unset MS_COMPILER_CACHE_ENABLE; `mindsora generate --compile-cache` keeps them apart",
            )
        )
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores():
        findings.append(
            Finding(
                "OMP_NUM_THREADS",
                "note",
                f"{threads} on {cores()} cores: threads wait for each other",
                f"export OMP_NUM_THREADS={cores()}",
            )
        )
    return findings or [Finding("environment", "ok", "no variable that changes MindSpore")]


def ascend() -> list[Finding]:
    """Cards, driver and CANN."""
    cards = len([node for node in NODES.glob("davinci*") if node.name[7:].isdigit()])
    home = cann_home()
    findings = [Finding("NPUs", "ok", f"{cards}" if cards else "none: everything runs on the CPU")]
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if cards and visible is not None:
        findings.append(
            Finding(
                "ASCEND_RT_VISIBLE_DEVICES", "note", f"{visible!r} of {cards} cards", "unset ASCEND_RT_VISIBLE_DEVICES"
            )
        )
    driver = version_line(DRIVER)
    if cards and driver is None:
        findings.append(
            Finding(
                "driver",
                "wrong",
                f"{cards} NPUs, but no {DRIVER}",
                "install the Ascend driver and firmware, then reboot",
            )
        )
    elif driver:
        findings.append(Finding("driver", "ok", driver))
    if home is None:
        if not cards:
            return [*findings, Finding("CANN", "ok", "none; only Ascend needs it")]
        script = TOOLKIT / "set_env.sh"
        mend = f"source {script}" if script.is_file() else INSTALL
        return [*findings, Finding("CANN", "wrong", f"{cards} NPUs, but ASCEND_HOME_PATH is not set", mend)]
    found = cann_version()
    if found is None:
        return [
            *findings,
            Finding("CANN", "wrong", f"{home} has no compiler/version.info", "source set_env.sh of the CANN toolkit"),
        ]
    if ".".join(found.split(".")[:2]) not in CANN:
        return [*findings, Finding("CANN", "wrong", f"{found}; MindSpore 2.10 accepts {', '.join(CANN)}", INSTALL)]
    findings.append(Finding("CANN", "ok", found))
    needs = {"PYTHONPATH": "op_impl/ai_core/tbe", "LD_LIBRARY_PATH": "/lib64", "ASCEND_OPP_PATH": "/opp"}
    for name, part in needs.items():
        if part not in os.environ.get(name, ""):
            findings.append(
                Finding(
                    name,
                    "wrong",
                    f"lacks ...{part}, which MindSpore on Ascend needs",
                    f"source {Path(home).parent / 'set_env.sh'}",
                )
            )
    return findings


def compiler() -> Finding:
    """A C++ compiler, for the operators on CPU."""
    mend = "unset CXX, or apt-get install g++"
    try:
        command = compiler_command()
    except InputError as error:
        return Finding("compiler", "wrong", str(error), mend)
    if not command:
        return Finding("compiler", "note", "none: slow plain forms run on CPU", "apt-get install g++")
    done = _run([*command, "--version"])
    if done.returncode:
        return Finding("compiler", "wrong", f"{shlex.join(command)} does not run: {_last(done)}", mend)
    if not done.stdout.strip():
        return Finding("compiler", "wrong", f"{shlex.join(command)} does not say its version: it is no compiler", mend)
    return Finding("compiler", "ok", done.stdout.strip().splitlines()[0])


def imports() -> list[Finding]:
    """MindSpore by itself, then after packages that bring libraries of the same kind."""
    alone = _probe("")
    if alone.returncode:
        return [Finding("MindSpore runs", "wrong", _last(alone), _mend(alone.stderr))]
    found = json.loads(alone.stdout.splitlines()[-1])
    findings = [Finding("MindSpore runs", "ok", f"{found['version']}, computes on CPU, sees {found['cards']} NPUs")]
    cards = len([node for node in NODES.glob("davinci*") if node.name[7:].isdigit()])
    if cards and not found["cards"]:
        findings.append(
            Finding(
                "MindSpore sees NPUs",
                "wrong",
                f"none of {cards}: its Ascend part did not load",
                "GLOG_v=1 python -c 'import mindspore' (its log says which library is missing)",
            )
        )
    present = [name for name in BEFORE if importlib.util.find_spec(name)]
    after = _probe("\n".join(f"import {name}" for name in present))
    if after.returncode:
        guilty = next((name for name in present if _probe(f"import {name}").returncode), ", ".join(present))
        mend = _mend(after.stderr)
        findings.append(
            Finding(
                "import order",
                "wrong",
                f"MindSpore fails after {guilty}: {_last(after)}",
                mend if "LD_PRELOAD" in mend else f"import mindspore before {guilty}",
            )
        )
    else:
        findings.append(Finding("import order", "ok", f"MindSpore also runs after {', '.join(present)}"))
    return findings


def kernels() -> list[Finding]:
    """Which implementation computes each operator; compiles those that were never compiled here."""
    done = _run([sys.executable, "-c", COMMAND, str(Path(__file__).parents[2]), "kernels"])
    if done.returncode:
        return [Finding("kernels", "wrong", _last(done), "unset MINDSORA_KERNELS; mindsora kernels")]
    chosen = [line for line in done.stdout.splitlines()[1:] if line and not line.startswith(" ")]
    plain = [line.split(":")[0] for line in chosen if ": reference" in line]
    if plain:
        return [Finding("kernels", "note", f"slow plain forms for {', '.join(plain)}", "mindsora kernels (says why)")]
    return [Finding("kernels", "ok", ", ".join(chosen))]


def memory() -> Finding:
    free = free_memory()
    if free is None:
        return Finding("memory", "note", "cannot be read here", "")
    if free < MEMORY:
        return Finding(
            "memory",
            "wrong",
            f"{free / 1e9:.1f} GB free; the smallest model needs {MEMORY / 1e9:.1f}",
            "end other programs; `mindsora plan` says what a clip takes",
        )
    return Finding("memory", "ok", f"{free / 1e9:.1f} GB free")


def disk() -> Finding:
    """Where results go, and where compiled operators are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = next(folder for folder in (cache, *cache.parents) if folder.exists())
    for folder, mend in ((Path.cwd(), "cd to a folder of your own"), (cache, "export XDG_CACHE_HOME=FOLDER, your own")):
        if shutil.disk_usage(folder).free < DISK:
            return Finding("disk", "wrong", f"{folder} has less than {DISK / 1e9:.0f} GB free", "make room there")
        if not os.access(folder, os.W_OK):
            return Finding("disk", "note", f"{folder} cannot be written", mend)
    return Finding("disk", "ok", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB free")


def models() -> Finding:
    if wrong := [path for name in (*in_the_box(), *autoencoders_in_the_box()) for path in damaged(BOX / name)]:
        return Finding(
            "models",
            "wrong",
            f"{wrong[0]} is missing or damaged",
            "python -m pip install --force-reinstall --no-deps mindsora",
        )
    if names := in_the_box():
        return Finding("models", "ok", f"in the box: {', '.join(names)}")
    return Finding("models", "note", "none in the box", "give --model the folder of a converted model")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """2.10.0rc1 -> (2, 10, 0)."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split("."))


def _probe(before: str) -> subprocess.CompletedProcess:
    return _run([sys.executable, "-c", PROBE.format(before=before)])


def _run(command: list[str]) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last(done: subprocess.CompletedProcess) -> str:
    """The last line a process printed, or the signal that ended it."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    said = lines[-1][:300] if lines else "it said nothing"
    return f"ended by signal {-done.returncode}: {said}" if done.returncode < 0 else said


def _mend(log: str) -> str:
    """The remedy for the usual reasons why MindSpore does not load."""
    if "static TLS block" in log:
        library = re.search(r"(/\S*libgomp\S*?\.so\S*?):? cannot allocate", log)
        return f"export LD_PRELOAD={library[1] if library else 'libgomp.so.1'}"
    if "GLIBCXX" in log or "CXXABI" in log:
        return "apt-get install libstdc++6 (or, in conda: conda install libstdcxx-ng)"
    if "numpy" in log.lower():
        return f'python -m pip install "numpy>={PACKAGES["numpy"][0]},<{PACKAGES["numpy"][1]}"'
    lowest, below = PACKAGES["mindspore"]
    return f'python -m pip install --force-reinstall "mindspore>={lowest},<{below}"'
