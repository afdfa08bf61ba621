"""Device and mode for every test: CPU, errors at the line that caused them, no Python fall-back under ms.jit."""

import gc
import os

os.environ["MS_DEV_JIT_SYNTAX_LEVEL"] = "0"  # before mindspore: jit must compile or fail, never fall back
os.environ["MS_DEV_HOST_BLOCKING_RUN"] = "1"  # as mindsora.runtime sets it on CPU: no thread spins while it waits

import mindspore as ms
import pytest
from budgets import pytest_addoption, pytest_configure  # noqa: F401  pytest finds hooks by their names here

ms.set_device("CPU")
ms.runtime.launch_blocking()
# Compiling makes very many Python objects that stay; looking for unreachable ones among them took some 6 % of its time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


def call(function, *arguments):
    return function(*arguments)


def jitted(function, *arguments):
    return ms.jit(function)(*arguments)


@pytest.fixture(params=[call, pytest.param(jitted, marks=pytest.mark.full)], ids=["pynative", "graph"])
def run(request):
    """run(function, *args): the call in PyNative, then compiled by ms.jit."""
    return request.param


@pytest.fixture(scope="module", autouse=True)
def graphs_of_a_file_are_released():
    """A process that compiled every model's graphs would hold 5 GB and more at the end."""
    yield
    ms.ms_memory_recycle()
