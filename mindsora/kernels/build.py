"""Compile a CPU operator once, with the system's C++ compiler, into the user's cache."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-pthread", "-fPIC", "-shared")


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mindsora" / "kernels"


def _cpu() -> str:
    """What -march=native depends on: the processor's name and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


@cache
def library(source: Path) -> Path | None:
    """The shared library of `source`, compiled if this source, these flags and this CPU were not seen before.

    Returns:
        Its path, or None where there is no compiler or it fails; that is said once.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    text = source.read_bytes()
    key = hashlib.sha256(text + repr((FLAGS, compiler, _cpu())).encode()).hexdigest()[:16]
    target = cache_folder() / f"{source.stem}-{key}.so"
    if target.exists():
        return target
    if not compiler:
        warnings.warn(f"no C++ compiler found: {source.stem} runs in its slower plain form (install g++)", stacklevel=2)
        return None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # renamed when whole: processes may race
            built = Path(folder) / target.name
            subprocess.run([compiler, *FLAGS, str(source), "-o", str(built)], check=True, capture_output=True, text=True)
            built.replace(target)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or error
        warnings.warn(f"{source.stem} could not be compiled and runs in its slower plain form: {detail}", stacklevel=2)
        return None
    return target
