"""Runtime policy in one place: device, compilation, determinism, memory, profiling, ranks.

Programs (the command line, recipes, tests) create a `Runtime` and `apply` it before the first Tensor. The library itself
never applies one, so in a notebook the user's own `mindspore.set_device` wins.
"""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from mindsora.errors import InputError, shown
from mindsora.machine import cores
from mindsora.ranges import Range, check_fields

# MindSpore reads these when it is imported; values that the user has set stay.
ENVIRONMENT = {
    "MS_DEV_JIT_SYNTAX_LEVEL": "0",  # under ms.jit, code that cannot be compiled must fail, not fall back to Python
    "GLOG_v": "3",  # errors only: the compiler's warnings would bury ours
}

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt(3)

_MEMORY = re.compile(r"([1-9][0-9]*(\.[0-9]+)?|0\.[0-9]*[1-9][0-9]*)GB")  # as MindSpore reads it
_MOST_MEMORY = 10_000  # GB; a limit that no card has, and MindSpore aborts where it is beyond any integer

_printed: set[str] = set()


@dataclass(frozen=True)
class Runtime:
    """Where and how a program runs.

    Attributes:
        device: "Ascend" or "CPU"; None picks Ascend if this MindSpore has one, otherwise CPU.
        device_id: card number, counted within ASCEND_RT_VISIBLE_DEVICES if that is set; None picks the card that msrun
            assigned, otherwise 0.
        jit: "O0" or "O1", the optimisation level of compiled graphs, or "off" (PyNative).
        deterministic: choose deterministic kernels (slower on Ascend; CPU kernels are deterministic).
        max_device_memory: upper limit of the device memory pool, such as "56GB".
        allow_hf32: let Ascend compute float32 convolutions and matrix products in HF32 (see `set_hf32`).
        profile: folder for a profiler trace.
    """

    device: str | None = None
    device_id: Annotated[int, Range(0, 1023)] | None = None
    jit: str = "O0"
    deterministic: bool = False
    max_device_memory: str | None = None
    allow_hf32: bool = False
    profile: str | None = None

    def __post_init__(self):
        check_fields(self)
        if self.device not in (None, "Ascend", "CPU"):
            raise InputError(f"device {shown(self.device)} must be Ascend or CPU")
        check_jit(self.jit)
        memory = self.max_device_memory
        if memory is not None and not (_MEMORY.fullmatch(memory) and float(memory[:-2]) <= _MOST_MEMORY):
            raise InputError(
                f"max-device-memory {shown(memory)} must be a number up to {_MOST_MEMORY} and GB, such as 56GB"
            )
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
        cards = len([card for card in visible.split(",") if card.strip()])
        if self.device != "CPU" and cards and (self.device_id or 0) >= cards:
            raise InputError(
                f"device-id {self.device_id}: ASCEND_RT_VISIBLE_DEVICES={visible} shows {cards} card(s), "
                f"numbered 0 to {cards - 1} here"
            )

    def apply(self) -> None:
        """Apply these settings to this process and print them once. Call it before the first Tensor."""
        # On import MindSpore would set this to half of the cores; with one core of two, a training step of the denoiser
        # on CPU takes nearly twice as long.
        threads = {"OMP_NUM_THREADS": str(max(1, cores() // world()))}
        for name, value in (ENVIRONMENT | threads).items():
            os.environ.setdefault(name, value)
        malloc = keep_freed_memory()

        import mindspore as ms

        ascend = ms.device_context.ascend.is_available() if self.device == "Ascend" else _has_ascend()
        if self.device == "Ascend" and not ascend:
            raise InputError("device Ascend: this MindSpore finds no Ascend card; use --device CPU")
        device = self.device or ("Ascend" if ascend else "CPU")
        device_id = self.device_id
        if device_id is None:
            device_id = int(os.environ["DEVICE_ID"]) if under_msrun() else 0
        if device == "CPU":
            # Run graphs in the calling thread. Otherwise that thread spins while it waits, on a core that the graph
            # needs: a training step took 0.69 s instead of 0.36 s on two cores.
            os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
            ms.set_device("CPU")
        else:
            ms.set_device("Ascend", device_id)
            set_hf32(self.allow_hf32)
        if self.deterministic and ms.get_context("deterministic") != "ON":  # MindSpore refuses a second call
            ms.set_deterministic(True)
        if self.max_device_memory is not None:
            ms.runtime.set_memory(max_size=self.max_device_memory)
        card = f" {device_id}" if device == "Ascend" else ""
        ranks = f", rank {rank()} of {world()}" if world() > 1 else ""
        memory = f", device memory <= {self.max_device_memory}" if self.max_device_memory else ""
        profile = f", profile {self.profile}" if self.profile else ""
        print_once(
            f"runtime: MindSpore {ms.__version__}, {device}{card}{ranks}, jit {self.jit}, "
            f"deterministic {'on' if self.deterministic else 'off'}, malloc {'tuned' if malloc else 'as it was'}"
            f"{memory}{profile}"
        )

    @contextlib.contextmanager
    def profiling(self) -> Iterator[None]:
        """Trace the work inside the context if `profile` names a folder."""
        if self.profile is None:
            yield
            return
        import mindspore as ms
        from mindspore.profiler import ProfilerActivity, profile, tensorboard_trace_handler

        activities = [ProfilerActivity.CPU]
        if ms.get_current_device().device_target == "Ascend":
            activities.append(ProfilerActivity.NPU)
        with profile(activities=activities, on_trace_ready=tensorboard_trace_handler(self.profile)):
            yield


def check_jit(jit: str) -> None:
    """Raise InputError for an unknown optimisation level."""
    if jit not in ("O0", "O1", "off"):
        raise InputError(f"jit {shown(jit)} must be O0, O1 or off")


def set_hf32(allowed: bool | None) -> None:
    """Say whether Ascend may round the inputs of float32 convolutions and matrix products to HF32, 10 bits of mantissa.

    CANN does so for convolutions where nobody says otherwise, and the autoencoder would be float32 by name only. For
    the whole process, before it computes. Other devices have no HF32.

    Args:
        allowed: None for no, where this process has not said yet.

    Raises:
        InputError: the process has said the opposite before; MindSpore takes no second word.
    """
    import mindspore as ms

    if ms.get_current_device().device_target != "Ascend":
        return
    precision = ms.device_context.ascend.op_precision
    try:
        precision.conv_allow_hf32(bool(allowed))
        precision.matmul_allow_hf32(bool(allowed))
    except RuntimeError as error:
        if allowed is not None:
            raise InputError(
                f"allow_hf32={allowed}: this process has set it otherwise; say it once, at the start"
            ) from error


def _has_ascend() -> bool:
    from mindspore import context

    return context.MSContext.get_instance().is_pkg_support_device("Ascend")


def print_once(line: str) -> None:
    """Print a line to standard error once per process."""
    if line not in _printed:
        _printed.add(line)
        print(line, file=sys.stderr, flush=True)


def keep_freed_memory() -> bool:
    """Raise glibc's malloc thresholds, so that freed activations stay with the process.

    With the defaults each large tensor is a fresh mapping, and faulting in its pages costs about 20 % of a training step
    on CPU. (M_MMAP_THRESHOLD alone is not enough: its maximum is 32 MiB.) Returns whether the call took effect; other C
    libraries have no mallopt.
    """
    mallopt = _libc("mallopt")
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 64 * 2**20)])


def return_freed_memory() -> None:
    """Return the memory that `keep_freed_memory` kept to the system, if the C library is glibc.

    Call it between tasks of different sizes: each leaves holes of a MiB or two in the heap, which add up.
    """
    if trim := _libc("malloc_trim"):
        trim(0)


def _libc(name: str):
    """Look up a function of glibc; None if there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


# Ranks. msrun starts one scheduler and `world` workers, all with the same command.


def under_msrun() -> bool:
    return os.environ.get("MS_ROLE") == "MS_WORKER"


def is_msrun_scheduler() -> bool:
    """Whether this process is msrun's scheduler, which runs the workers' command but has no part in their work."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def world() -> int:
    """Number of worker processes."""
    return int(os.environ["MS_WORKER_NUM"]) if under_msrun() else 1


def rank() -> int:
    """Number of this worker, 0 to world - 1."""
    if not under_msrun():
        return 0
    if "RANK_ID" not in os.environ:  # msrun does not set it on several nodes without --node_rank
        raise InputError("RANK_ID is not set: give msrun --node_rank on every node")
    return int(os.environ["RANK_ID"])
