import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindsora import runtime
from mindsora.commands import arguments
from mindsora.errors import InputError
from mindsora.runtime import Runtime

ROOT = Path(__file__).parents[1]


def python(code: str, **env: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MS_", "ASCEND_", "RANK_", "DEVICE_ID"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=clean | {"PYTHONPATH": str(ROOT)} | env, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"device": "GPU"}, ["'GPU'", "Ascend or CPU"]),
        ({"jit": "O2"}, ["'O2'", "O0, O1 or off"]),
        ({"device_id": -1}, ["device_id = -1", "from 0 to 1023"]),
        ({"max_device_memory": "56"}, ["'56'", "56GB"]),
        ({"max_device_memory": f"{10**30}GB"}, ["up to 10000 and GB"]),  # MindSpore aborts there
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError) as error:
        Runtime(**settings)
    assert all(word in str(error.value) for word in words)


def test_device_id_counts_within_the_visible_devices(monkeypatch):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6")
    assert Runtime(device_id=1).device_id == 1
    with pytest.raises(InputError, match="device-id 4: ASCEND_RT_VISIBLE_DEVICES=4,6 shows 2.*0 to 1"):
        Runtime(device_id=4)
    assert Runtime(device="CPU", device_id=4).device == "CPU"  # cards do not matter there


def test_arguments():
    parser = argparse.ArgumentParser()
    arguments.add_runtime(parser)
    assert arguments.runtime_of(parser.parse_args([])) == Runtime()
    options = "--device CPU --device-id 2 --jit off --deterministic --max-device-memory 8GB --allow-hf32 --profile p"
    assert arguments.runtime_of(parser.parse_args(options.split())) == Runtime("CPU", 2, "off", True, "8GB", True, "p")


def test_no_card_here():
    with pytest.raises(InputError, match="device Ascend.*--device CPU"):
        Runtime(device="Ascend").apply()


def test_apply_sets_what_it_says_once():
    code = """
import os, sys
from mindsora.runtime import Runtime
policy = Runtime(device="CPU", deterministic=True)
assert "MS_DEV_JIT_SYNTAX_LEVEL" not in os.environ and "mindspore" not in sys.modules
sys.stderr = sys.stdout
policy.apply(); policy.apply()
import mindspore as ms
assert os.environ["MS_DEV_JIT_SYNTAX_LEVEL"] == "0"
assert ms.get_current_device().device_target == "CPU"
assert ms.get_context("deterministic") == "ON"
"""
    (line,) = python(code).splitlines()
    assert line.startswith("runtime: MindSpore 2.") and "CPU, jit O0, deterministic on" in line


def test_operators_get_all_cores():
    """C sees this value after the import of MindSpore, which otherwise sets it to half of the cores."""
    code = """
import ctypes
from mindsora.runtime import Runtime
Runtime(device="CPU").apply()
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(getenv(b"OMP_NUM_THREADS").decode())
"""
    cores = len(os.sched_getaffinity(0))
    assert python(f"import os; os.environ.pop('OMP_NUM_THREADS', None){code}").splitlines()[-1] == str(cores)
    assert python(code, OMP_NUM_THREADS="1").splitlines()[-1] == "1"  # the user's value stays
    ranks = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "RANK_ID": "0", "DEVICE_ID": "0"}
    shared = python(f"import os; os.environ.pop('OMP_NUM_THREADS', None){code}", **ranks)
    assert shared.splitlines()[-1] == str(max(1, cores // 2))


def test_users_own_device_wins_in_a_notebook():
    """The library sets no device: a second, different ms.set_device would raise."""
    code = """
import mindspore as ms
ms.set_device("CPU", 0)
import mindsora.pipelines.text_to_video, mindsora.models.suv.model, mindsora.models.wfvae.model
import mindsora.models.t5.model, mindsora.models.clip.model, mindsora.jobs
from mindspore.device_manager import DeviceManagerConf
print(ms.get_current_device(), DeviceManagerConf.get_instance().is_device_enable())
"""
    assert python(code).splitlines()[-1] == "('CPU', 0) True"


def test_profile(tmp_path):
    code = f"""
import numpy as np
from mindsora.runtime import Runtime
policy = Runtime(device="CPU", profile={str(tmp_path)!r})
policy.apply()
from mindspore import Tensor
with policy.profiling():
    (Tensor(np.ones((8, 8), np.float32)) @ Tensor(np.ones((8, 8), np.float32))).asnumpy()
"""
    python(code)
    assert list(tmp_path.rglob("trace_view.json"))


def test_ranks(monkeypatch):
    for name in ("MS_ROLE", "MS_WORKER_NUM", "RANK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (runtime.rank(), runtime.world(), runtime.is_msrun_scheduler()) == (0, 1, False)
    monkeypatch.setenv("RANK_ID", "3")
    monkeypatch.setenv("MS_WORKER_NUM", "8")
    assert (runtime.rank(), runtime.world()) == (0, 1)  # stale variables in a shell without msrun
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    assert (runtime.rank(), runtime.world()) == (3, 8)
    monkeypatch.delenv("RANK_ID")
    with pytest.raises(InputError, match="--node_rank"):
        runtime.rank()
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    assert runtime.is_msrun_scheduler()


def test_freed_memory_is_kept():
    """Page faults of filling 40 fresh arrays of 48 MiB: one array's 12,288 pages at first, and few after."""
    code = """
import resource
import numpy as np
from mindsora.runtime import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(12 * 2**20, np.float32)
start = faults()
for _ in range(40):
    np.ones(12 * 2**20, np.float32)
print(faults() - start)
"""
    assert int(python(code.format(keep=True))) < 1000
    assert int(python(code.format(keep=False))) > 1000  # otherwise the test above proves nothing


def test_kept_memory_is_returned():
    """200 MiB in blocks, every second one freed: malloc keeps the holes until the call releases them."""
    held = python("""
import numpy as np
from mindsora.machine import resident_memory
from mindsora.runtime import keep_freed_memory, return_freed_memory
assert keep_freed_memory()
blocks = [np.ones(2**18, np.float32) for _ in range(200)]
full = resident_memory()["now"]
del blocks[::2]
kept = resident_memory()["now"]
return_freed_memory()
print((full - kept) >> 20, (full - resident_memory()["now"]) >> 20)
""")
    kept, returned = map(int, held.split())
    assert kept < 10 and returned > 90, held
