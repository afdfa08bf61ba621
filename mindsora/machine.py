"""What this machine is: processor, memory, versions. (No MindSpore here.)"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """The processor's name as Linux gives it, else its family."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; "not installed" for what is missing."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def version_line(path: Path) -> str | None:
    """The value of `Version=` in one of Ascend's version.info files, or None."""
    return next((line.split("=", 1)[1].strip() for line in _lines(path) if line.startswith("Version=")), None)


def cann_home() -> str | None:
    """The folder of CANN that its own set-up script names."""
    return os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")


def cann_version() -> str | None:
    """Version of the CANN in use, from the file that MindSpore reads too."""
    home = cann_home()
    return None if home is None else version_line(Path(home) / "compiler/version.info")


def free_memory() -> int | None:
    """Bytes this process may still take: what the system has available, or less where a control group says so."""
    available = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit() and used[0].isdigit():
        available.append(int(limit[0]) - int(used[0]))
    return min(available, default=None)


def resident_memory() -> dict[str, int]:
    """Resident memory of this process now, and its highest value so far; bytes."""
    fields = dict(line.split(":", 1) for line in _lines("/proc/self/status") if ":" in line)
    return {name: int(fields[key].split()[0]) * 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def device_part() -> str | None:
    """The vendor's name of the current device; None where MindSpore counts none, as in simulation."""
    import mindspore as ms

    device = ms.get_current_device()
    if not ms.hal.device_count(device.device_target):
        return None
    # A host has one CPU for all ranks, whose numbers MindSpore takes as the device's.
    number = 0 if device.device_target == "CPU" else device.device_id
    return ms.hal.get_device_name(number, device.device_target)
