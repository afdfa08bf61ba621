"""Run a function of a test module in several CPU processes under msrun, and collect what each returns."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

TIMEOUT = 480  # seconds; a job takes some 20 when nothing else runs
ENVIRONMENT = {
    "MS_DEV_JIT_SYNTAX_LEVEL": "0",
    "MS_DEV_HOST_BLOCKING_RUN": "1",
    "OMP_NUM_THREADS": "1",
    "GLOG_v": "3",
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def msrun(count: int, logs: Path, *command: str, port: int | None = None) -> list[str]:
    """The command that starts `command` in `count` processes of this host."""
    program = Path(sys.executable).with_name("msrun")
    options = {"worker_num": count, "local_worker_num": count, "master_addr": "127.0.0.1", "log_dir": logs}
    options |= {"master_port": port or free_port(), "join": True, "bind_core": False}
    return [str(program), *(f"--{name}={value}" for name, value in options.items()), *command]


def environment() -> dict[str, str]:
    """This process's, with the settings of every rank and this Python first."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    here = Path(__file__).parent
    python = os.pathsep.join((str(here.parent), str(here), os.environ.get("PYTHONPATH", "")))
    return os.environ | ENVIRONMENT | {"PATH": path, "PYTHONPATH": python}


def run_ranks(job: str, layout: str, folder: Path) -> list[dict[str, np.ndarray]]:
    """Run `job`, a function from a Mesh to named arrays, on every rank.

    Args:
        job: "module:function" of a module in tests/.
        layout: such as "dp=2,cp=2"; its size is the number of processes.
        folder: for logs and results.

    Returns:
        the arrays of each rank.
    """
    from mindsora.parallel.layout import Layout

    count = Layout.parse(layout).size
    logs = folder / "logs"
    command = msrun(count, logs, str(Path(__file__)), job, layout, str(folder))
    done = subprocess.run(command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    said = "\n".join(f"{log.name}: {log.read_text(errors='replace')[-3000:]}" for log in sorted(logs.glob("worker*")))
    assert done.returncode == 0, f"{job} on {layout}\n{said}\n{done.stderr[-2000:]}"
    results = [folder / f"rank_{rank}.npz" for rank in range(count)]
    return [dict(np.load(path)) for path in results]


def main(job: str, layout: str, folder: str) -> None:
    """One process of `run_ranks`; msrun's scheduler comes here too."""
    import importlib

    import mindspore as ms

    ms.set_device("CPU")
    from mindsora import runtime
    from mindsora.parallel import launch
    from mindsora.parallel.layout import Layout, mesh_of

    if runtime.is_msrun_scheduler():
        return launch.serve()
    mesh = mesh_of(Layout.parse(layout))
    module, function = job.split(":")
    arrays = getattr(importlib.import_module(module), function)(mesh)
    np.savez(Path(folder) / f"rank_{runtime.rank()}.npz", **arrays)
    launch.leave(mesh.world)


if __name__ == "__main__":
    main(*sys.argv[1:])
